package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/urfave/cli/v3"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/pds"
)

// home is where a service keeps its tables: one schema of a database, entered by a role
// that, in production and on the private server, can use these tables and nothing else.
type home struct {
	name    string // of the service in logs and metrics
	service string // pds, appview or ledger: whose tables these are
	dsn     string
	schema  string
}

func migrations(service string) fs.FS {
	switch service {
	case schemaPDS:
		return pds.Migrations()
	case schemaAppView:
		return index.Migrations()
	default:
		return ledger.Migrations()
	}
}

// migrate brings the tables up to this program and gives role its rights to them. The
// home's address is that of their owner. Without a role nothing is granted.
func (h home) migrate(ctx context.Context, role string) error {
	pool, err := pg.Open(ctx, h.dsn, h.schema)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pg.Migrate(ctx, pool, h.schema, migrations(h.service)); err != nil || role == "" {
		return err
	}
	switch h.service {
	case schemaPDS:
		return pds.GrantTo(ctx, pool, role)
	case schemaAppView:
		return index.GrantTo(ctx, pool, role)
	default:
		return ledger.GrantTo(ctx, pool, role)
	}
}

// openHome gives a service its tables, once they are what it needs.
func (g *ground) openHome(ctx context.Context, h home) (*pgxpool.Pool, error) {
	if err := g.settle(ctx, h); err != nil {
		return nil, err
	}
	return pg.Open(ctx, h.dsn, h.schema)
}

// settle makes sure that the tables are there before a service uses them. A role that may
// change the schema migrates it; any other only checks, and its refusal says what to do.
func (g *ground) settle(ctx context.Context, h home) error {
	pool, err := pg.Open(ctx, h.dsn, h.schema)
	if err != nil {
		return err
	}
	defer pool.Close()
	may, err := pg.MayMigrate(ctx, pool, h.schema)
	if err != nil {
		return err
	}
	if may {
		g.log.Warn("this service's role may change its own schema; migrate --grant-to gives it one that may not", "service", h.service, "schema", h.schema)
		return pg.Migrate(ctx, pool, h.schema, migrations(h.service))
	}
	err = pg.Current(ctx, pool, h.schema, migrations(h.service))
	if errors.Is(err, pg.ErrNotCurrent) {
		return refuse("SchemaNotCurrent", "%v; as the owner run: citysync %s migrate --database-url DSN --grant-to ROLE", err, h.service)
	}
	return err
}

func schemaFlag(service string) cli.Flag {
	return stringFlag("schema", service, "`SCHEMA` of the database that holds this service's tables")
}

// migrateCommand is the owner's part of a service's start: a role that may make tables
// makes them, and gives the service's own role the right to use them.
func migrateCommand(service string, s streams) *cli.Command {
	return &cli.Command{
		Name:  "migrate",
		Usage: "make or update the tables, as their owner, and let the service's role use them",
		Flags: []cli.Flag{
			stringFlag("database-url", "", "PostgreSQL `DSN` of the owner"),
			stringFlag("grant-to", "", "`ROLE` that the service will run as; it must exist"),
			schemaFlag(service),
		},
		Action: func(ctx context.Context, c *cli.Command) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.String("database-url") == "" {
				return errors.New("--database-url is needed")
			}
			h := home{name: service, service: service, dsn: c.String("database-url"), schema: c.String("schema")}
			if err := h.migrate(ctx, c.String("grant-to")); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "schema %s is current", h.schema)
			if role := c.String("grant-to"); role != "" {
				fmt.Fprintf(s.out, "; %s may use it", role)
			}
			fmt.Fprintln(s.out)
			return nil
		},
	}
}
