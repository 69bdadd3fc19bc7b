"""The parts of the bulk sync that commands and bots use."""

from bot_layer.bulk_sync.engine import Sync as make_sync
from bot_layer.bulk_sync.options import Surroundings
from bot_layer.bulk_sync.session import is_shared, load_state, login_name

__all__ = ["Surroundings", "is_shared", "load_state", "login_name", "make_sync"]
