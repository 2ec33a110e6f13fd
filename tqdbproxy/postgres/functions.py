"""PostgreSQL's functions that keep a statement from being batched or its answer from being kept, by why they do.

The law of this module: names only, without schemas; what a function of the user's own does isn't known.
"""

from __future__ import annotations

_WHAT_IT_DID = """currval lastval pg_my_temp_schema pg_is_other_temp_schema pg_listening_channels
    pg_get_backend_memory_contexts pg_get_loaded_modules pg_stat_get_snapshot_timestamp
    postgres_fdw_get_connections postgres_fdw_disconnect postgres_fdw_disconnect_all"""
_WHO_IT_IS = """pg_backend_pid inet_client_addr inet_client_port inet_server_addr inet_server_port current_query
    system_user ssl_is_used ssl_version ssl_cipher ssl_client_cert_present ssl_client_serial ssl_client_dn
    ssl_client_dn_field ssl_issuer_dn ssl_issuer_field ssl_extension_info"""
_WHAT_STAYS = """set_config setseed pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock
    pg_try_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all
    dblink_connect dblink_connect_u dblink_disconnect dblink_open dblink_close dblink_fetch"""
_SLEEP = "pg_sleep pg_sleep_for pg_sleep_until"
_WHAT_OTHERS_SUFFER = "pg_cancel_backend pg_terminate_backend"


def _names(*groups: str) -> frozenset[str]:
    return frozenset(" ".join(groups).split())


#: Functions whose result or effect belongs to the session that calls them: a write with one isn't batched. Left out on
#: purpose, and documented for users: now() and the transaction id (shared by a batch), nextval (its value is nobody's),
#: pg_notify (the sender is the session that ran the batch, as with a trigger's NOTIFY).
UNSAFE_FUNCTIONS = _names(_WHAT_IT_DID, _WHO_IT_IS, _WHAT_STAYS, _SLEEP, _WHAT_OTHERS_SUFFER)

_SETTINGS_AND_CURSORS = """pg_show_all_settings pg_show_settings pg_cursor pg_prepared_statement
    cursor_to_xml cursor_to_xmlschema"""
_TRANSACTION = """txid_current txid_current_if_assigned pg_current_xact_id pg_current_xact_id_if_assigned
    pg_export_snapshot"""
_COUNTS_AND_TELLS = "nextval setval pg_notify pg_nextoid"
_LARGE_OBJECTS = """lo_create lo_creat lo_unlink lo_import lo_export lo_put lo_from_bytea lo_open lo_close lo_lseek
    lo_lseek64 lo_tell lo_tell64 lo_truncate lo_truncate64 loread lowrite"""
#: OIDs of the functions that libpq calls with FunctionCall (``lo_open``, ``loread`` and their like, never renumbered):
#: what they leave behind ends with the transaction, and no table is changed by them.
LARGE_OBJECT_CALLS = frozenset((715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172))
_SERVER = """pg_reload_conf pg_rotate_logfile pg_logdir_rotate pg_promote pg_switch_wal
    pg_create_restore_point pg_wal_replay_pause pg_wal_replay_resume pg_backup_start pg_backup_stop pg_start_backup
    pg_stop_backup pg_log_backend_memory_contexts pg_log_standby_snapshot pg_import_system_collations pg_prewarm"""
_FILES_AND_INDEXES = """pg_file_write pg_file_rename pg_file_unlink pg_file_sync pg_truncate_visibility_map
    brin_summarize_new_values brin_summarize_range brin_desummarize_range gin_clean_pending_list"""
_STATISTICS = """pg_stat_force_next_flush pg_stat_clear_snapshot pg_stat_statements_reset pg_restore_relation_stats
    pg_restore_attribute_stats pg_clear_relation_stats pg_clear_attribute_stats"""
_FAMILIES = (
    "pg_advisory_",
    "pg_try_advisory_",
    "dblink",
    "pg_stat_reset",
    "pg_stat_get_xact_",
    "pg_create_",
    "pg_drop_",
    "pg_copy_",
    "pg_sync_replication_",
    "pg_replication_",
    "pg_logical_",
)
_NO_READS = (UNSAFE_FUNCTIONS - _names(_SLEEP)) | _names(
    _SETTINGS_AND_CURSORS,
    _TRANSACTION,
    _COUNTS_AND_TELLS,
    _LARGE_OBJECTS,
    _SERVER,
    _FILES_AND_INDEXES,
    _STATISTICS,
)


def spoils_answer(function: str) -> bool:
    """Whether an answer must not be kept because of this function: it belongs to one session, or each call counts.

    Who calls pg_sleep or random in a statement whose answer is to be kept wants just that.
    """
    return function in _NO_READS or function.startswith(_FAMILIES)
