package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"city-sync.org/citysync/internal/pg"
)

// rolePrefix begins the names of one city's roles. Roles belong to a whole server, which
// may hold more than one city.
func rolePrefix(instance string) string { return "citysync_" + instance[:8] + "_" }

// mayMakeRoles tells whether an address's role can give each service a role of its own.
func mayMakeRoles(ctx context.Context, dsn string) (bool, error) {
	pool, err := pg.Open(ctx, dsn, "public")
	if err != nil {
		return false, err
	}
	defer pool.Close()
	var may bool
	if err := pool.QueryRow(ctx, `select rolsuper or rolcreaterole from pg_roles where rolname = current_user`).Scan(&may); err != nil {
		return false, fmt.Errorf("ask for the rights of the database's role: %w", err)
	}
	return may, nil
}

// makeRole makes a role that may sign in to the address's database and nothing more. The
// name and the password are of our own making: lower case, digits and underscores.
func makeRole(ctx context.Context, dsn, role, password string) error {
	pool, err := pg.Open(ctx, dsn, "public")
	if err != nil {
		return err
	}
	defer pool.Close()
	var there, enters bool
	if err := pool.QueryRow(ctx, `select exists (select from pg_roles where rolname = $1)`, role).Scan(&there); err != nil {
		return fmt.Errorf("look for role %s: %w", role, err)
	}
	verb := "create"
	if there {
		verb = "alter"
	}
	if _, err := pool.Exec(ctx, fmt.Sprintf(`%s role %s login password '%s'`, verb, role, password)); err != nil {
		return fmt.Errorf("%s role %s: %w", verb, role, err)
	}
	if err := pool.QueryRow(ctx, `select has_database_privilege($1, current_database(), 'connect')`, role).Scan(&enters); err != nil || enters {
		return err
	}
	const grant = `do $$ begin execute format('grant connect on database %%I to %s', current_database()); end $$`
	if _, err := pool.Exec(ctx, fmt.Sprintf(grant, role)); err != nil {
		return fmt.Errorf("let role %s in: %w", role, err)
	}
	return nil
}

// closeDatabase takes from everybody what PostgreSQL gives to everybody: to enter a
// database and to make tables in it. It is for databases that hold nothing but ours.
func closeDatabase(ctx context.Context, dsn string) error {
	pool, err := pg.Open(ctx, dsn, "public")
	if err != nil {
		return err
	}
	defer pool.Close()
	const revoke = `do $$ begin
		execute format('revoke all on database %I from public', current_database());
		revoke all on schema public from public;
	end $$`
	if _, err := pool.Exec(ctx, revoke); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// makeDatabase makes a database on the server of the address, where it is missing.
func makeDatabase(ctx context.Context, dsn, name string) error {
	pool, err := pg.Open(ctx, dsn, "public")
	if err != nil {
		return err
	}
	defer pool.Close()
	var there bool
	if err := pool.QueryRow(ctx, `select exists (select from pg_database where datname = $1)`, name).Scan(&there); err != nil || there {
		return err
	}
	if _, err := pool.Exec(ctx, `create database `+name); err != nil {
		return fmt.Errorf("make database %s: %w", name, err)
	}
	return nil
}

// dropRoles ends the roles of a city whose schemas are gone.
const dropRoles = `do $$ declare r text; begin
	for r in select rolname from pg_roles where rolname like 'citysync\_%[1]s\_%%' loop
		execute format('revoke all on database %%I from %%I', current_database(), r);
		execute format('drop role %%I', r);
	end loop;
end $$`

// enterAs is an address with another role.
func enterAs(dsn, role, password string) (string, error) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return dsn + " user=" + role + " password=" + password, nil // of a setting given twice the last one counts
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", errors.New("the database's address is no URL") // url's own error would show a password
	}
	q := u.Query() // wins over the user before the host
	q.Set("user", role)
	q.Set("password", password)
	u.User, u.RawQuery = nil, q.Encode()
	return u.String(), nil
}

// databases makes the home of every service: its tables, made by the owner of the whole
// database, and a role of its own that may use them and enter nothing else.
func (s *stack) databases(ctx context.Context) error {
	private := s.cfg.DatabaseURL == ""
	own := private
	if !private {
		var err error
		if own, err = mayMakeRoles(ctx, s.dsn); err != nil {
			return err
		}
	}
	if !own {
		s.log.Warn("the database's role may make no roles: all services share it")
	}
	if private {
		if err := closeDatabase(ctx, s.dsn); err != nil {
			return err
		}
	}
	for _, place := range s.places() {
		owner := home{name: place.name, service: place.service, dsn: s.dsn, schema: place.name}
		if private && s.state.Databases {
			if err := makeDatabase(ctx, s.dsn, "citysync_"+place.name); err != nil {
				return err
			}
			owner.dsn, owner.schema = s.server.DSN("citysync_"+place.name), place.service
			if err := closeDatabase(ctx, owner.dsn); err != nil {
				return err
			}
		}
		if err := s.settleIn(ctx, place.name, owner, own); err != nil {
			return fmt.Errorf("tables of %s: %w", place.name, err)
		}
	}
	return nil
}

func (s *stack) settleIn(ctx context.Context, name string, owner home, own bool) error {
	h := owner
	if !own {
		s.homes[name] = settled{home: h, owner: owner}
		return owner.migrate(ctx, "")
	}
	secret, err := s.dir.secret("database-" + name)
	if err != nil {
		return err
	}
	role, password := rolePrefix(s.state.Instance)+name, hex.EncodeToString(secret)
	if err := makeRole(ctx, owner.dsn, role, password); err != nil {
		return err
	}
	if h.dsn, err = enterAs(owner.dsn, role, password); err != nil {
		return err
	}
	if err := enters(ctx, h.dsn); err != nil {
		if s.cfg.DatabaseURL == "" {
			return err
		}
		// The server may know people by other means than passwords.
		s.log.Warn("the server lets this service's own role not in: it uses the database's role", "service", name, "error", err)
		h.dsn = owner.dsn
	}
	s.homes[name] = settled{home: h, owner: owner, role: role}
	return owner.migrate(ctx, role)
}

func enters(ctx context.Context, dsn string) error {
	pool, err := pg.Open(ctx, dsn, "public")
	if err != nil {
		return err
	}
	pool.Close()
	return nil
}

// settled is a home with what its owner needs to bring it up to date.
type settled struct {
	home
	owner home
	role  string
}

// place is one service of this city that has tables.
type place struct {
	name    string // of its schema, database, role and secrets
	service string
}

func (s *stack) places() []place {
	all := []place{{schemaPDS, schemaPDS}, {schemaLedger, schemaLedger}, {schemaAppView, schemaAppView}}
	if s.state.SecondPDS {
		all = append(all, place{schemaPDS2, schemaPDS})
	}
	return all
}
