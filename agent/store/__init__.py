"""The durable state of a workspace: one SQLite file, its tables, its journal."""

from agent.store.database import Connection, Store, insert

__all__ = ["Connection", "Store", "insert"]
