package pds

import (
	"embed"
	"io/fs"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the migrations of the schema pds, for pg.Migrate.
func Migrations() fs.FS { return migrations }
