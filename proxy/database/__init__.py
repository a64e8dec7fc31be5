"""The database: keys and teams, who changed them, and what was bought.

SQLAlchemy is imported by the modules of this package alone, and not by this one: a proxy starts before it is read.
"""
