"""Recordings of one generated network, as files for `benchmarks.groups`.

    python -m benchmarks.networks michaelis_menten --graph ba --seeds 0 1 2 --out DIR
    python -m benchmarks.groups DIR/michaelis_menten_ba_0.npz --every 4 --frames 5 --way path
    python -m benchmarks.networks springs --nodes 100 --share 0.03 --tasks 3 --frames 50 --out DIR
    python -m benchmarks.networks springs netsims --graph food_web --nodes 30 --tasks 120 --frames 49 --out DIR

All but the last are dynamics that Pan, Shi, Dokmanic (2024, *A graph dynamics prior for relational inference*)
score on undirected graphs of 50 nodes, the last one with springs those of StructInfer (Wang, Tong, Pang 2023). A is the
graph, d its degrees; constants that they do not print are ours:

- `michaelis_menten`: y' = -y + (1 / d_i) sum_j A_ij y_j / (1 + y_j), from U(1, 2), a frame a unit of time;
- `diffusion`: x' = -(1 - D^-1/2 A D^-1/2) x, from U(0, 1), 0.1 a frame;
- `rossler`: x' = -y - z + (1 / d_i) sum_j A_ij sin(x_j), y' = x + 0.1 y, z' = 0.1 + z (x - 18), from U(-5, 5), a frame
  a unit of time (`--step`);
- `kuramoto`: p' = w_i + (1 / d_i) sum_j A_ij sin(p_j - p_i), w from N(0, 1) once, from U(-pi, pi), 0.1 a frame;
- `springs`: x'' = -0.1 sum_j A_ij (x_i - x_j) in the plane, from N(0, 0.5) at speed 0.5, 0.1 a frame;
- `netsims`: x' = -x + sum_j A_ij x_j, from N(0, 1), 0.1 a frame.

Graphs: `er`, pairs with probability 0.1 (`--share`); `ba`, Barabasi and Albert, two edges a new node. Families like
those of StructInfer, by generators of our own, directed but for `landscape`; [receiver, sender]:

- `gene_regulatory`: scale-free, few genes regulate many (Bollobas et al. 2003);
- `food_web`: niche model (Williams and Martinez 2000) of connectance 0.1;
- `social`: small world (Watts and Strogatz 1998), of whose pairs half go one way only;
- `chemical`: a square grid, of whose pairs half go one way only;
- `vascular`: a tree that branches in two;
- `landscape`: every patch with its three nearest ones in the plane, both ways.
"""

import argparse
import sys
from pathlib import Path

import networkx as nx
import numpy as np
from scipy.integrate import solve_ivp

NODES, TASKS, FRAMES = 50, 50, 20
DYNAMICS = ("michaelis_menten", "diffusion", "rossler", "kuramoto", "springs", "netsims")
STEPS = {"michaelis_menten": 1.0, "rossler": 1.0}  # of a frame; 0.1 of others
FAMILIES = ("gene_regulatory", "food_web", "social", "chemical", "vascular", "landscape")


def family(kind: str, nodes: int, generator: np.random.Generator) -> np.ndarray:
    """Adjacency matrix (N, N), `[receiver, sender]`, of one of `FAMILIES`."""
    seed = int(generator.integers(2**31))
    if kind == "gene_regulatory":
        drawn = nx.scale_free_graph(nodes, alpha=0.1, beta=0.4, gamma=0.5, seed=seed)
        matrix = (nx.to_numpy_array(drawn).T > 0).astype(float)
        np.fill_diagonal(matrix, 0)
        return matrix
    if kind == "food_web":
        niche = generator.uniform(size=nodes)
        width = niche * generator.beta(1, 4, size=nodes)  # of mean 1/5: a tenth of all species
        centre = generator.uniform(width / 2, niche)
        matrix = (np.abs(niche - centre[:, None]) <= width[:, None] / 2).astype(float)
        np.fill_diagonal(matrix, 0)
        return matrix
    if kind == "vascular":
        matrix, free = np.zeros((nodes, nodes)), [0, 0]
        for node in range(1, nodes):
            matrix[node, free.pop(int(generator.integers(len(free))))] = 1
            free += [node, node]
        return matrix
    if kind == "landscape":
        place = generator.uniform(size=(nodes, 2))
        apart = np.linalg.norm(place[:, None] - place, axis=-1)
        matrix = (apart <= np.sort(apart, 1)[:, 3:4]).astype(float)
        np.fill_diagonal(matrix, 0)
        return np.maximum(matrix, matrix.T)
    side = int(np.ceil(nodes**0.5))
    drawn = nx.watts_strogatz_graph(nodes, 4, 0.2, seed) if kind == "social" else nx.grid_2d_graph(side, side)
    matrix = nx.to_numpy_array(drawn)[:nodes, :nodes]
    gone = np.triu(generator.uniform(size=matrix.shape))  # below a quarter one way, below a half the other
    return matrix * ~((gone > 0) & (gone < 0.25) | (gone.T > 0.25) & (gone.T < 0.5))


def graph(kind: str, nodes: int, share: float, generator: np.random.Generator) -> np.ndarray:
    """Adjacency matrix (N, N), `[receiver, sender]`; without isolated nodes where these are rare."""
    if kind in FAMILIES:
        return family(kind, nodes, generator)
    while True:
        seed = int(generator.integers(2**31))
        drawn = nx.gnp_random_graph(nodes, share, seed) if kind == "er" else nx.barabasi_albert_graph(nodes, 2, seed)
        matrix = nx.to_numpy_array(drawn)
        if matrix.sum(1).all() or nodes * share < 5:
            return matrix


def recorded(
    dynamics: str, a: np.ndarray, tasks: int, frames: int, step: float, generator: np.random.Generator
) -> np.ndarray:
    """States (tasks, N, frames, D) on a graph (N, N), a frame every `step`."""
    n, degree = len(a), a.sum(1)
    normal, natural = a / np.sqrt(np.outer(degree, degree)).clip(1), generator.normal(size=n)

    def rate(_: float, x: np.ndarray) -> np.ndarray:
        if dynamics == "michaelis_menten":
            return -x + a @ (x / (1 + x)) / degree
        if dynamics == "diffusion":
            return normal @ x - x
        if dynamics == "netsims":
            return a @ x - x
        if dynamics == "rossler":
            x, y, z = x.reshape(3, n)
            return np.concatenate([a @ np.sin(x) / degree - y - z, x + 0.1 * y, 0.1 + z * (x - 18)])
        if dynamics == "kuramoto":
            return natural + (np.sin(x[None] - x[:, None]) * a).sum(1) / degree
        place, speed = x.reshape(4, n)[:2], x.reshape(4, n)[2:]
        return np.concatenate([speed, 0.1 * (place @ a.T - place * degree)]).ravel()

    def first() -> np.ndarray:
        if dynamics == "springs":
            speed = generator.normal(size=(2, n))
            speed *= 0.5 / np.linalg.norm(speed, axis=0)
            return np.concatenate([0.5 * generator.normal(size=(2, n)), speed]).ravel()
        if dynamics == "netsims":
            return generator.normal(size=n)
        if dynamics == "rossler":
            return generator.uniform(-5, 5, 3 * n)
        low, high = {"michaelis_menten": (1, 2), "diffusion": (0, 1), "kuramoto": (-np.pi, np.pi)}[dynamics]
        return generator.uniform(low, high, n)

    times, paths = step * np.arange(frames), []
    for _ in range(tasks):
        path = solve_ivp(rate, (0, times[-1]), first(), t_eval=times, rtol=1e-8, atol=1e-10).y  # (N D, T)
        paths.append(path.reshape(-1, n, frames).transpose(1, 2, 0))
    return np.stack(paths)


def write(dynamics: str, seed: int, given: argparse.Namespace) -> Path:
    """Writes one network's recordings; `--half` rounds states to float16."""
    generator = np.random.default_rng(seed)
    a = graph(given.graph, given.nodes, given.share, generator)
    step = given.step or STEPS.get(dynamics, 0.1)
    states = recorded(dynamics, a, given.tasks, given.frames, step, generator)
    if given.half:
        states = states.astype(np.float16)
    size = f"_{given.nodes}" if given.nodes != NODES else ""
    size += f"_step{given.step:g}" if given.step else ""
    path = given.out / f"{dynamics}_{given.graph}{size}{'_half' if given.half else ''}_{seed}.npz"
    np.savez(path, states=states.astype(np.float64), relations=a.astype(np.int8))
    return path


def main() -> None:
    """Writes files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dynamics", nargs="+", choices=DYNAMICS)
    parser.add_argument("--graph", choices=("er", "ba", *FAMILIES), default="er")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--share", type=float, default=0.1, help="probability of a pair of `er`")
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--step", type=float, help="time from frame to frame, if not that of the dynamics")
    parser.add_argument("--half", action="store_true", help="round states to float16")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for dynamics in arguments.dynamics:
        for seed in arguments.seeds:
            print(write(dynamics, seed, arguments), file=sys.stderr)


if __name__ == "__main__":
    main()
