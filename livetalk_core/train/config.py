"""The settings of a training run: one frozen recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from livetalk_core.plan import check_frame_count, check_multiple
from livetalk_core.presets import Preset

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW with gradient clipping: linear warm-up over `warmup` updates, a constant rate, and optionally a linear decay to 0.

    With `muon`, Muon (Jordan et al. 2024) updates the matrices and kernels of the blocks, at `muon` times the rate.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 0
    fall: tuple[int, int] = (0, 0)
    """First and last update of the linear decay of the rate; (0, 0) for none."""
    muon: float = 0.0
    """Muon's rate as a multiple of `lr`; at 1 its updates are as large as AdamW's; 0 uses AdamW for everything."""
    frozen: tuple[str, ...] = ()
    """Names of the parts of the network that are not trained."""

    def rate(self, update: int) -> float:
        """The learning rate of an update, counted from 1."""
        first, last = self.fall
        left = 1.0 if last == 0 else min(1.0, max(0.0, (last + 1 - update) / (last + 1 - first)))
        return self.lr * min(1.0, update / (self.warmup + 1)) * left


@dataclass(frozen=True, kw_only=True)
class Run:
    """Length, batch size, precision, checkpoints and validation of a run."""

    steps: int
    batch: int = 1
    """Samples per process in one forward and backward pass."""
    accumulate: int = 1
    """Passes per update; an update sees batch x accumulate x processes samples."""
    seed: int = 0
    dtype: str = "float32"
    """Compute dtype; weights and summed gradients are float32."""
    checkpoint_activations: bool = False
    compile: bool = False
    """Compile the networks in training, once per batch shape; on a CPU this needs a C++ compiler."""
    ema_decay: float = 0.0
    """0 keeps no EMA weights."""
    ema_start: int = 0
    """The EMA starts after this many updates of its network; until then it equals the weights. Stage 2 updates the generator every
    `ratio` steps only."""
    save_every: int = 100
    keep: int = 2
    """Checkpoints to keep; older ones are deleted."""
    validate_every: int = 0
    """Steps between validation videos; 0 for none."""
    validate_chunks: int = 5
    log_every: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every", "keep", "log_every", "validate_chunks"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name}={vars(self)[name]} must be 1 or more")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} must be {' or '.join(DTYPES)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must be 0 (no average) to below 1; 0.99 and 0.999 are usual")


@dataclass(frozen=True, kw_only=True)
class SFT:
    """Stage 1: the flow-matching adaptation."""

    optim: Optim
    shift: float = 5.0
    """Time shift in training: t = shift u / (1 + (shift - 1) u), u uniform."""
    motion_latents: tuple[int, ...] = (1, 2)
    """Possible numbers of motion latents, one drawn per sample: a stream's first chunk has 1, later chunks have 2."""
    noise_motion: float = 0.0
    """Probability that the motion latents are noised like the rest, as Stage 2 may show them to the score networks."""
    bent_motion: float = 0.0
    """Probability that the motion latents are of bent frames (bend.py), from which the network learns to go back to the reference. Needs
    clips that were prepared with `--bend`."""
    drop_text_and_audio: float = 0.05
    drop_text: float = 0.05
    drop_audio: float = 0.0
    mouth_weight: float = 0.0
    """Extra loss weight where the mouth is, or what else a clip's mask covers; elsewhere the weight is 1."""
    blink_weight: float = 0.0
    """Extra loss weight of a latent frame in which the eyes are shut; half of it where they are half shut."""

    def __post_init__(self) -> None:
        if not 0 <= self.bent_motion <= 1:
            raise ValueError(f"bent_motion={self.bent_motion} must be 0 to 1; 0.25 is usual")
        total = self.drop_text_and_audio + self.drop_text + self.drop_audio
        if not 0 <= total <= 1:
            raise ValueError(f"the dropouts sum to {total}, which must be 0 to 1; a usual sum is 0.1")


@dataclass(frozen=True, kw_only=True)
class SmallSFT(SFT):
    """Stage 1 of the small model: it trains on cropped clips, which is cheaper, and learns to answer as with guidance."""

    audio_guidance: float = 1.0
    """Guidance scale for the sound that the network learns to reproduce in one pass; 1 is none. Needs `drop_audio`."""
    guided_from: int = 0
    """First step that learns guidance. It costs a second forward pass per step, so a late start is cheaper."""
    square: int = 0
    """Side in tokens of the square crops used before step `whole_from`; 0 never crops."""
    at_mouth: float = 0.5
    """Share of the crops that contain the middle of the mouth, or of what else a clip's mask covers."""
    squares: int = 1
    """Crops per clip, each with its own flow time and noise."""
    whole_from: int = 0
    """First step that trains on whole pictures."""
    full_weight_from: float = 0.0
    """Below this flow time the loss is weighted by (t / full_weight_from)^2, since predicting x0 divides errors in v by t."""

    def __post_init__(self) -> None:
        SFT.__post_init__(self)
        if self.audio_guidance < 1:
            raise ValueError(f"audio_guidance={self.audio_guidance} must be 1 (none) or more; 1.5 is usual for a small model")
        if not 0 <= self.at_mouth <= 1:
            raise ValueError(f"at_mouth={self.at_mouth} must be 0 to 1; 0.5 is usual")
        if self.squares < 1:
            raise ValueError(f"squares={self.squares} must be 1 or more")
        if self.audio_guidance > 1 and not self.drop_audio + self.drop_text_and_audio:
            raise ValueError(f"audio_guidance={self.audio_guidance} needs samples without sound to compare with; set drop_audio=0.1")

    def at(self, step: int) -> SmallSFT:
        """The settings in force at this step: guidance only from `guided_from`, crops only before `whole_from`."""
        guidance = self.audio_guidance if step >= self.guided_from else 1.0
        return replace(self, audio_guidance=guidance, square=0 if step >= self.whole_from else self.square)


@dataclass(frozen=True, kw_only=True)
class DMD:
    """Stage 2: distribution matching distillation along the model's own roll-out."""

    generator: Optim
    critic: Optim
    ratio: int = 5
    """Updates of the fake score per update of the generator."""
    chunks: int = 5
    """K: the longest roll-out."""
    strategy: str = "random"
    """random: k ~ U(1, K) chunks; fixed: always K."""
    steps: int = 4
    shift: float = 5.0
    last_noise: float = 1.0
    """Noise added before the last step of the roll-out, as when serving."""
    t_min: float = 0.02
    t_max: float = 0.98
    text_guidance: float = 1.0
    """Guidance scales of the real score; 1 for both means no guidance, with one forward pass instead of three."""
    audio_guidance: float = 1.0
    motion_source: str = "predicted"
    """Motion latents given to the score networks: predicted (from the roll-out) or truth (from the clip)."""
    noise_motion: bool = True
    """Noise the motion latents to t like the rest; otherwise they are clean."""
    motion_loss: bool = False
    """Include the generator's prediction for the motion latents in its loss."""

    def __post_init__(self) -> None:
        if self.strategy not in ("random", "fixed"):
            raise ValueError(f"strategy={self.strategy!r} must be random or fixed")
        if self.motion_source not in ("predicted", "truth"):
            raise ValueError(f"motion_source={self.motion_source!r} must be predicted or truth")
        if self.ratio < 1 or self.chunks < 1:
            raise ValueError(f"ratio={self.ratio} and chunks={self.chunks} must be 1 or more; the published values are 5 and 5")
        if not 0 < self.t_min <= self.t_max < 1:
            raise ValueError(f"t_min={self.t_min} and t_max={self.t_max} must lie within 0 to 1, in order; the usual pair is 0.02 and 0.98")


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Training of a small model's VAE."""

    optim: Optim
    frames: int = 13
    size: int = 64
    """Side of the square crops, pixels."""
    noise: float = 0.03
    """Standard deviation of the noise on the normalized latents, so that the decoder tolerates small errors of a DiT."""
    edge_weight: float = 0.2
    """Weight of the loss on local sharpness."""
    mouth_weight: float = 2.0
    errors: float = 0.0
    """Share of crops whose latents get a DiT's recorded errors instead of noise; these crops are whole chunks."""

    def __post_init__(self) -> None:
        check_multiple("size", self.size, 8)
        if not 0 <= self.errors <= 1:
            raise ValueError(f"errors={self.errors} must be 0 to 1: a share of the crops")
        check_frame_count("frames", self.frames)


@dataclass(frozen=True, kw_only=True)
class Enlarging:
    """Training of a small model's enlarger."""

    optim: Optim
    frames: int = 2
    """Frames of each film, all at the same place."""
    size: int = 64
    """Side of the square crops, pixels of the small frames."""
    edge_weight: float = 0.4
    """Weight of the loss on local sharpness."""
    mouth_weight: float = 2.0
    flow_weight: float = 0.3
    """Weight of the loss of the moved picture, from which the flow is learned."""

    def __post_init__(self) -> None:
        check_multiple("size", self.size, 4)
        if self.frames < 1:
            raise ValueError(f"frames={self.frames} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that defines one training run."""

    name: str
    model: Preset
    run: Run
    stage: SFT | DMD | Tokenizer | Enlarging
