//go:build interop

package interop

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOfficialPackagesAcceptTheCity(t *testing.T) {
	ws := install(t)
	city := startCity(t, 12)
	stream := ws.listen(t, city) // before the client writes: part of what it checks comes live, part is replayed

	t.Run("oauth-client: apps are let in by a person and do what they were granted", func(t *testing.T) {
		ws.run(t, nil, "oauth.mjs", city)
	})
	var made []byte // what the client wrote, in its own words
	t.Run("api: a client signs in, writes, reads back and signs out", func(t *testing.T) {
		made = ws.run(t, nil, "client.mjs", city)
	})
	t.Run("sync: the firehose delivers and verifies every commit", func(t *testing.T) {
		require.NotEmpty(t, made, "without the client's writes there is nothing to look for")
		stream.finish(t, made)
	})
	t.Run("repo: exported repositories and proofs verify", func(t *testing.T) {
		ws.run(t, made, "repo.mjs", city)
	})
	t.Run("lexicon: schemas load, examples and records validate", func(t *testing.T) {
		ws.run(t, nil, "lexicons.mjs", city, ws.lexicons)
	})
}
