package evidence

import (
	"io/fs"
	"os"
	"testing/fstest"
)

// schema is the AppView's migration for evidence alone: this package must not know the index.
func schema() fs.FS {
	raw, err := os.ReadFile("../index/migrations/0004_evidence.sql")
	if err != nil {
		panic(err)
	}
	return fstest.MapFS{"0001_evidence.sql": {Data: raw}}
}
