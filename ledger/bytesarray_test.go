package ledger

import (
	"testing"

	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/pg/pgtest"
)

func TestListsOfBytesReachTheDatabaseAsTheyAre(t *testing.T) {
	t.Parallel()
	pool := pgtest.Schema(t, Migrations())
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	for _, taught := range []bool{false, true} {
		if taught {
			registerMany(conn.Conn().TypeMap())
		}
		for _, list := range []many{nil, {}, {{1}, {}, nil, make([]byte, 70_000)}, {nil}} {
			var back [][]byte
			var n *int
			require.NoError(t, conn.QueryRow(t.Context(), `select $1::bytea[], cardinality($1::bytea[])`, list).Scan(&back, &n))
			require.Equal(t, [][]byte(list), back, "taught: %t", taught)
			require.Equal(t, list == nil, n == nil)
		}
	}
}
