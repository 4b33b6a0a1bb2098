"""Weight files as Keras 2 wrote them, from arrays."""

import h5py


def write_keras_h5(path, layers, models=None):
    """A weight file of Keras 2.

    Args:
        layers: {layer: {variable: array}}; layers without variables have none.
        models: {name of a model within: layers of it}.

    Returns:
        the paths of all arrays in the file.
    """
    written = {name: {f"{name}/{kind}:0": array for kind, array in own.items()} for name, own in layers.items()}
    for model, inner in (models or {}).items():
        written[model] = {f"{name}/{kind}:0": array for name, own in inner.items() for kind, array in own.items()}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in written]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.1.3"
        for layer, arrays in written.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group[name] = array
    return {f"{layer}/{name}" for layer, arrays in written.items() for name in arrays}
