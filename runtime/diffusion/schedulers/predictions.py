"""What a model's output says about the clean sample and the noise, as weights of (sample, output).

Two coordinates: a forward process x = a x0 + b epsilon, and the sigma space of Karras et al. (arXiv:2206.00364),
x = x0 + sigma epsilon, where the model is shown x / sqrt(sigma^2 + 1).
"""

from runtime.checks import shown
from runtime.diffusion.schedulers.plan import OUTPUT, PREDICTION, SAMPLE, Weights
from runtime.errors import InputError


def predictions(prediction_type: str, a: float, b: float) -> tuple[Weights, Weights]:
    """The clean sample and the noise where x = a x0 + b epsilon."""
    if prediction_type == "epsilon":
        if a == 0:
            raise InputError("epsilon prediction is undefined at zero terminal SNR: use v_prediction or sample")
        return Weights(sample=1 / a, output=-b / a), OUTPUT
    if prediction_type == "sample":
        return OUTPUT, Weights(sample=1 / b, output=-a / b)
    if prediction_type == "v_prediction":
        return Weights(sample=a, output=-b), Weights(sample=b, output=a)
    raise InputError(f"unknown prediction_type {shown(prediction_type)}: epsilon, sample or v_prediction")


def sigma_prediction(prediction_type: str, sigma: float, *, has_sample: bool = True) -> Weights:
    """The clean sample where x = x0 + sigma epsilon. `has_sample` False refuses models that predict it themselves."""
    if prediction_type == "epsilon":
        return Weights(sample=1.0, output=-sigma)
    if prediction_type == "v_prediction":
        return Weights(sample=1 / (sigma**2 + 1), output=-sigma / (sigma**2 + 1) ** 0.5)
    if prediction_type == "sample" and has_sample:
        return OUTPUT
    known = "epsilon, sample or v_prediction" if has_sample else "epsilon or v_prediction"
    raise InputError(f"prediction_type {shown(prediction_type)} is not one that this scheduler knows: {known}")


def slope(sigma: float) -> Weights:
    """dx/dsigma of the probability flow (arXiv:2206.00364, equation 3): the noise that the clean sample leaves."""
    return (SAMPLE - PREDICTION) * (1 / sigma)


def model_scale(sigma: float) -> float:
    """What brings x back to the variance that the model was trained on."""
    return float((sigma**2 + 1) ** -0.5)
