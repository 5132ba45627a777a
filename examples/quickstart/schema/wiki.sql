-- The wiki of the quickstart, as its owner made it.
CREATE TABLE IF NOT EXISTS users (
    user_id INTEGER PRIMARY KEY,
    managed_by TEXT UNIQUE,
    login TEXT NOT NULL UNIQUE,
    full_name TEXT,
    email TEXT,
    state TEXT NOT NULL DEFAULT 'active'
);
CREATE TABLE IF NOT EXISTS user_groups (
    user_id INTEGER NOT NULL REFERENCES users (user_id) ON DELETE CASCADE,
    group_name TEXT NOT NULL,
    PRIMARY KEY (user_id, group_name)
);
