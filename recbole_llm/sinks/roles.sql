-- Who may do what with the tables of recommendations. Whoever administers the database runs it once, and again
-- when he likes:  psql --set ON_ERROR_STOP=1 --file roles.sql postgresql://postgres@db.example/shop
-- then gives the loader its password (\password recommendations_loader) and each analyst the right to read
-- (GRANT recommendations_reader TO analyst).

DO $$ BEGIN
    -- Loads the nightly tables: it owns one schema, and has no right to anything else.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'recommendations_loader') THEN
        CREATE ROLE recommendations_loader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
    END IF;
    -- May SELECT from the published tables, which the loader grants when it makes them.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'recommendations_reader') THEN
        CREATE ROLE recommendations_reader NOLOGIN;
    END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS recommendations AUTHORIZATION recommendations_loader;
ALTER ROLE recommendations_loader SET search_path = recommendations;
