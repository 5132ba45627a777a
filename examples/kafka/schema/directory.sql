-- The directory as its owner made it, on PostgreSQL.
CREATE TABLE IF NOT EXISTS accounts (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lockstep_account TEXT UNIQUE,
    user_name TEXT NOT NULL UNIQUE,
    display_name TEXT,
    mail TEXT UNIQUE,
    mobile TEXT,
    department TEXT,
    title TEXT,
    employee_number TEXT,
    active BOOLEAN NOT NULL DEFAULT true
);
CREATE TABLE IF NOT EXISTS memberships (
    account_id BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    group_name TEXT NOT NULL,
    PRIMARY KEY (account_id, group_name)
);
CREATE INDEX IF NOT EXISTS memberships_by_group ON memberships (group_name);
