"""What a training run is: one frozen recipe per run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from livetalk_core.plan import check_frame_count, check_multiple
from livetalk_core.presets import Preset

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW behind a clipped gradient: a linear warm-up of `warmup` updates, a constant rate, and if wanted a fall to 0.

    With `muon` the blocks' matrices and kernels are left to Muon (Jordan et al. 2024), at `muon` times the rate.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 0
    fall: tuple[int, int] = (0, 0)
    """The updates from and to which the rate falls, in a straight line; (0, 0): it does not."""
    muon: float = 0.0
    """Rate of the blocks' matrices and kernels over `lr`, an update as large as AdamW's; 0 leaves them to AdamW."""
    frozen: tuple[str, ...] = ()
    """Parts of the network that stay as they are, by their names."""

    def rate(self, update: int) -> float:
        """Of an update, counted from 1."""
        first, last = self.fall
        left = 1.0 if last == 0 else min(1.0, max(0.0, (last + 1 - update) / (last + 1 - first)))
        return self.lr * min(1.0, update / (self.warmup + 1)) * left


@dataclass(frozen=True, kw_only=True)
class Run:
    """How long, how much at once, and what is kept."""

    steps: int
    batch: int = 1
    """Samples per process and pass."""
    accumulate: int = 1
    """Passes per update: batch x accumulate x processes samples in all."""
    seed: int = 0
    dtype: str = "float32"
    """What the networks compute in; weights and gradient sums are float32."""
    checkpoint_activations: bool = False
    compile: bool = False
    """Compile the networks that learn, each shape of batch on its own; needs a C++ compiler on a CPU."""
    ema_decay: float = 0.0
    """0 keeps no average."""
    ema_start: int = 0
    """Updates of the averaged network before which the average is its copy."""
    save_every: int = 100
    keep: int = 2
    """Checkpoints kept; older ones are removed."""
    validate_every: int = 0
    """0 makes no videos."""
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
    """Of the training times: t = shift u / (1 + (shift - 1) u), u uniform."""
    motion_latents: tuple[int, ...] = (1, 2)
    """Drawn from these: the first chunk of a stream has 1, later ones 2."""
    noise_motion: float = 0.0
    """How often the motion latents are noised like the rest, as Stage 2 may show them to the score networks."""
    drop_text_and_audio: float = 0.05
    drop_text: float = 0.05
    drop_audio: float = 0.0
    mouth_weight: float = 0.0
    """Added to the loss weight of 1 where the mouth is."""

    def __post_init__(self) -> None:
        total = self.drop_text_and_audio + self.drop_text + self.drop_audio
        if not 0 <= total <= 1:
            raise ValueError(f"the dropouts sum to {total} and must stay within 0 to 1; the published ones sum to 0.1")


@dataclass(frozen=True, kw_only=True)
class SmallSFT(SFT):
    """Stage 1 of the small model: cheaper, since its clips are cut, and stronger, since it learns guidance."""

    audio_guidance: float = 1.0
    """How much stronger the network learns to follow the sound than the data does, as guidance would make it; needs `drop_audio`."""
    guided_from: int = 0
    """The step from which it learns that, a second forward pass each: late is cheaper."""
    square: int = 0
    """Side, in tokens, of the squares that clips are cut to until step `whole_from`, every other one at the mouth; 0: never cut."""
    squares: int = 1
    """Of each clip, each at its own time with its own noise."""
    whole_from: int = 0
    full_weight_from: float = 0.0
    """Flow time below which a sample's loss counts (t / this)^2: a network that answers x0 errs by 1 / t in the velocity."""

    def __post_init__(self) -> None:
        SFT.__post_init__(self)
        if self.audio_guidance < 1:
            raise ValueError(f"audio_guidance={self.audio_guidance} must be 1 (none) or more; 1.5 is usual for a small model")
        if self.squares < 1:
            raise ValueError(f"squares={self.squares} must be 1 or more")
        if self.audio_guidance > 1 and not self.drop_audio + self.drop_text_and_audio:
            raise ValueError(f"audio_guidance={self.audio_guidance} needs samples without sound to compare with; set drop_audio=0.1")

    def at(self, step: int) -> SmallSFT:
        """What holds at this step, without what begins later or is over."""
        guidance = self.audio_guidance if step >= self.guided_from else 1.0
        return replace(self, audio_guidance=guidance, square=0 if step >= self.whole_from else self.square)


@dataclass(frozen=True, kw_only=True)
class DMD:
    """Stage 2: distribution matching distillation along the model's own roll-out."""

    generator: Optim
    critic: Optim
    ratio: int = 5
    """Updates of the fake score for one of the generator."""
    chunks: int = 5
    """K: the longest roll-out."""
    strategy: str = "random"
    """random: k ~ U(1, K) chunks; fixed: always K."""
    steps: int = 4
    shift: float = 5.0
    last_noise: float = 1.0
    """Of the roll-out, as it is served."""
    t_min: float = 0.02
    t_max: float = 0.98
    text_guidance: float = 1.0
    """Of the real score; 1 for both is no guidance, and one pass in place of three."""
    audio_guidance: float = 1.0
    motion_source: str = "predicted"
    """Motion latents that the score networks see: predicted (the roll-out's own) or truth (the clip's)."""
    noise_motion: bool = True
    """Noise them to t like the rest; else they are clean."""
    motion_loss: bool = False
    """Count the generator's own answer for the motion latents in its loss too."""

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
    """Before both stages of a small model: its VAE."""

    optim: Optim
    frames: int = 13
    size: int = 64
    """Of the squares that are cut from the films, pixels."""
    noise: float = 0.03
    """Deviation of what is added to the normalized latents, so that the decoder bears a DiT's small errors."""
    edge_weight: float = 0.2
    """Of the loss between how sharp the pictures are around each pixel."""
    mouth_weight: float = 2.0
    errors: float = 0.0
    """Share of cuts from latents that a DiT has made, whole chunks: its errors then take the noise's place."""

    def __post_init__(self) -> None:
        check_multiple("size", self.size, 8)
        if not 0 <= self.errors <= 1:
            raise ValueError(f"errors={self.errors} must be 0 to 1: a share of the cuts")
        check_frame_count("frames", self.frames)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run, complete."""

    name: str
    model: Preset
    run: Run
    stage: SFT | DMD | Tokenizer
