"""The state of a MuJoCo simulation as plain data.

What MuJoCo integrates from (positions, velocities, time, the solver's warm start) is not all that an environment sees:
the positions of bodies are those before the latest step. So every array of numbers is kept beside it.
"""

from typing import Any

import numpy as np
import torch

CONSTANT = "mesh_", "skin_", "tex_", "bvh_", "oct_", "flex_"
"""Begins the names of a model's arrays that are large and do not change."""
OPTIONS = "timestep", "impratio", "tolerance", "density", "viscosity"
"""Numbers among a model's options; the others are arrays."""


def is_ours(x: Any) -> bool:
    """Whether it is MuJoCo's data or model."""
    kind = type(x)
    return kind.__name__ in ("MjData", "MjModel") and kind.__module__.partition(".")[0] == "mujoco"


def read(x: Any) -> dict[str, Any]:
    """The numbers of a ``MjData`` or ``MjModel``, by name."""
    arrays = {name: torch.from_numpy(array.copy()) for name, array in _arrays(x).items()}
    if type(x).__name__ == "MjModel":
        arrays |= {f"opt.{name}": torch.from_numpy(array.copy()) for name, array in _arrays(x.opt).items()}
        return {"arrays": arrays, "numbers": {name: float(getattr(x.opt, name)) for name in OPTIONS}}
    import mujoco

    state = np.empty(mujoco.mj_stateSize(x.model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(x.model, x, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    return {"arrays": arrays, "state": torch.from_numpy(state)}


def write(saved: dict[str, Any], x: Any) -> None:
    """Gives it the numbers that `read` returned.

    Raises:
        ValueError: they are of another model.
    """
    here = _arrays(x)
    if type(x).__name__ == "MjModel":
        here |= {f"opt.{name}": array for name, array in _arrays(x.opt).items()}
        for name in OPTIONS:
            setattr(x.opt, name, float(saved["numbers"][name]))
    else:
        import mujoco

        state = saved["state"].numpy()
        if state.shape != (mujoco.mj_stateSize(x.model, mujoco.mjtState.mjSTATE_INTEGRATION),):
            raise ValueError("the state is of another model")
        mujoco.mj_setState(x.model, x, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    for name, array in saved["arrays"].items():
        if name not in here or here[name].shape != tuple(array.shape):
            raise ValueError(f"{name} is of another model")
        here[name][...] = array.numpy()


def _arrays(x: Any) -> dict[str, Any]:
    """The arrays of real numbers, by name, whose size the model says: what there is of contacts follows from them."""
    like: Any = x
    if type(x).__name__ == "MjData":
        import mujoco

        like = mujoco.MjData(x.model)  # which has no contacts yet
    names = (name for name in dir(x) if not name.startswith(("_", *CONSTANT)))
    pairs = ((name, getattr(x, name), getattr(like, name)) for name in names)
    return {name: array for name, array, made in pairs if _is_real(array) and made.size and made.shape == array.shape}


def _is_real(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float64 and x.flags.writeable
