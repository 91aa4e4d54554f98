"""The state of a training run."""

from dataclasses import dataclass, field

from nanochat.batches.loader import Loader
from nanochat.checkpoint.meta import Progress
from nanochat.model.gpt import GPT
from nanochat.optim.muon_adamw import MuonAdamW
from nanochat.optim.schedule import Schedule
from nanochat.runtime import Runtime
from nanochat.tokenizer.tokenizer import Tokenizer


@dataclass
class Trainer:
    """A model in training, with everything the loop and hooks need."""

    model: GPT
    tokenizer: Tokenizer
    optimizer: MuonAdamW
    schedule: Schedule
    loader: Loader | None
    """None if the stage's own step makes its data."""
    runtime: Runtime
    progress: Progress = field(default_factory=Progress)
    document_mask: bool = False
    """As in the plan."""

    @property
    def finished(self) -> bool:
        """Whether the schedule's last step has been taken."""
        return self.progress.step >= self.schedule.total_steps
