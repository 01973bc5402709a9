"""From records to tables, statistics and figures. Never imports torch."""
