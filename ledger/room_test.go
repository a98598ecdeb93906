package ledger

import (
	"bytes"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

func TestRoomChangesNothingThatIsSent(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("leaf"), 1000)
	messages := func(front *pgproto3.Frontend, lend func()) {
		for range 3 {
			front.Send(&pgproto3.Bind{PreparedStatement: "begin"})
			lend()
			front.Send(&pgproto3.Bind{PreparedStatement: "write", Parameters: [][]byte{long, {1}, nil}})
			front.Send(&pgproto3.Sync{})
			require.NoError(t, front.Flush())
			front.Send(&pgproto3.Sync{}) // a short flush: the connection keeps what it was lent
			lend()
			require.NoError(t, front.Flush())
		}
	}
	var want, got bytes.Buffer
	messages(pgproto3.NewFrontend(nil, &want), func() {})
	front, r := pgproto3.NewFrontend(nil, &got), new(room)
	r.atLeast(2 * len(long))
	messages(front, func() { front.Send(r) })
	require.Equal(t, want.Bytes(), got.Bytes())
	require.Contains(t, string(r.bytes[:cap(r.bytes)]), string(long), "the message was written where there was room")
}
