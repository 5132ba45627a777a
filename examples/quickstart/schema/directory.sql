-- The directory of the quickstart, as its owner made it.
CREATE TABLE IF NOT EXISTS accounts (
    id INTEGER PRIMARY KEY,
    lockstep_account TEXT UNIQUE,
    user_name TEXT NOT NULL UNIQUE,
    display_name TEXT,
    given_name TEXT,
    family_name TEXT,
    mail TEXT UNIQUE,
    mobile TEXT,
    department TEXT,
    title TEXT,
    manager TEXT,
    employee_number TEXT,
    active INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS memberships (
    account_id INTEGER NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
    group_name TEXT NOT NULL,
    PRIMARY KEY (account_id, group_name)
);
