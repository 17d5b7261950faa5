"""Shapes in annotations, `Float[Tensor, "B N T D"]`: tests check them, and without jaxtyping they are plain tensors.

Letters are those of `modmeta/keys.py`. `#B` may be 1 where tasks share something, `*rest` is any number of
dimensions.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Plain:
            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = _Plain

__all__ = ["Bool", "Float", "Int"]
