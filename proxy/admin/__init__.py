"""The admin API: keys, teams, the audit log, the cache and what was spent, for whoever holds `auth.admin_token`.

`routes` is all that the composition root needs. What is served is data (`Operation`): the same rows answer requests and
make the document `/admin/v1/openapi.json`.
"""

from proxy.admin.parts import AdminParts
from proxy.admin.served import operations, routes

__all__ = ["AdminParts", "operations", "routes"]
