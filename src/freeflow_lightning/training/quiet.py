"""Messages of Lightning that tell the user of this package nothing, or advise what does not apply,
and messages that are repeated.
"""

import logging
import warnings

NOISE = (
    ".*isinstance.treespec, LeafSpec.*",  # Lightning on newer torch
    ".*in eval mode at the start of training.*",  # averages are, on purpose
    ".*but have no `val_dataloader`.*",  # val_samples: 0
    ".*Total length of `list` across ranks is zero.*",  # the same
    ".*does not have many workers.*",  # there is no dataset
    ".*sync_dist=True.*on epoch level.*",  # figures of a validation are those of all processes
    ".*could not find the monitored key.*",  # MonitoredFigures says it
    ".*is smaller than the logging interval.*",  # steps are logged over all epochs
    ".*The dirpath has changed.*",  # a run that goes on in a folder of its own ranks its own
)
CHATTER = ("Tip:", "Detected KeyboardInterrupt", "callbacks returned in `LightningModule.configure")
LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")


def quiet() -> None:
    """Drop these messages; all others are heard, once each where nobody has set up logging."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(is_worth_saying)
    if (handler := logging.lastResort) is not None:
        for old in [each for each in handler.filters if isinstance(each, _FirstOfItsWords)]:
            handler.removeFilter(old)
        handler.addFilter(_FirstOfItsWords())


class _FirstOfItsWords(logging.Filter):
    """Passes a message that has not been said since this was made: what is true of several samplers
    is said once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        words = record.getMessage()
        is_new = words not in self._said
        self._said.add(words)
        return is_new


def is_worth_saying(record: logging.LogRecord) -> bool:
    """Return whether a message of Lightning tells something."""
    return not any(word in record.getMessage() for word in CHATTER)
