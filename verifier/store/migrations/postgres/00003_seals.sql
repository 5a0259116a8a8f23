-- The value of a state row begins with 16 bytes of a hash over the row.

UPDATE state SET value = substring(sha256(convert_to('writ-row-v1', 'UTF8') || '\x00'::bytea
    || convert_to(kind, 'UTF8') || '\x00'::bytea || convert_to(id, 'UTF8') || '\x00'::bytea || value) FROM 1 FOR 16) || value;
