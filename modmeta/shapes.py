"""Shape annotations such as `Float[Tensor, "B N T D"]`. Tests check them; without jaxtyping they mean `Tensor`.

Letters are listed in `modmeta/keys.py`. `#B` also matches 1 (shared by all tasks), `*rest` matches any dimensions.
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
