package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"city-sync.org/citysync/internal/pg/wire"
)

// A batch that is one call is sent and answered by hand: pgx's pipeline has one goroutine for both, and here the next batch is on its way
// while the answer to the one before it is waited for. One goroutine posts, one takes answers in the order of what was posted, and nobody
// else uses the connection meanwhile. Frontend's buffer stays out of it: what is posted is encoded in the sender's own room.

var binary1 = []int16{1}

// arguments are those of write_batch, with room for the messages that bring them. What is large stands last, since the connection's buffer
// grows argument by argument where a batch is sent by the pipeline.
type arguments struct {
	wire.Arguments
	sent []byte
}

// post sends a call and asks for the head behind it. What stands before a sync is a transaction by itself, which the sync commits, or takes
// back where the call failed: no BEGIN and no COMMIT. The head is read by a transaction of its own.
func (c lockedConn) post(ctx context.Context, call *arguments) error {
	defer c.until(ctx)()
	bytes, err := call.letter(c.prepared)
	if err != nil {
		return fmt.Errorf("encode the batch: %w", err)
	}
	if _, err := c.PgConn().Conn().Write(bytes); err != nil {
		return fmt.Errorf("send the batch: %w", err)
	}
	afterSend()
	return nil
}

// letter is a call with the sync that commits it, and the question for the head with its own. It stands until the next one is made.
func (a *arguments) letter(p prepared) (bytes []byte, err error) {
	bytes = slices.Grow(a.sent[:0], a.Size())
	for _, m := range [...]pgproto3.FrontendMessage{
		&pgproto3.Bind{PreparedStatement: p.write.Name, ParameterFormatCodes: binary1, Parameters: a.Values(), ResultFormatCodes: binary1},
		&pgproto3.Execute{}, &pgproto3.Sync{},
		&pgproto3.Bind{PreparedStatement: p.head.Name, ResultFormatCodes: binary1}, &pgproto3.Execute{}, &pgproto3.Sync{},
	} {
		if bytes, err = m.Encode(bytes); err != nil {
			return nil, err
		}
	}
	a.sent = bytes
	return bytes, nil
}

// answer takes what became of the oldest call that was posted, and the head behind it. All of it is read, whatever it says.
func (c lockedConn) answer(ctx context.Context) (h head, err error) {
	defer c.until(ctx)()
	tells := [...]string{"write the batch", "read head back"}
	done, rows := [len(tells)]bool{}, 0
	for part := 0; part < len(tells); {
		msg, e := c.PgConn().ReceiveMessage(context.Background()) // until watches ctx
		if e != nil {
			return h, fmt.Errorf("%s: %w", tells[part], errors.Join(err, e))
		}
		switch m := msg.(type) {
		case *pgproto3.ErrorResponse:
			if err == nil {
				err = fmt.Errorf("%s: %w", tells[part], guarded(pgconn.ErrorResponseToPgError(m)))
			}
		case *pgproto3.DataRow:
			if part == 0 {
				continue // of a function that returns nothing
			}
			rows++
			if h, e = headOf(m.Values); e != nil && err == nil {
				err = e
			}
		case *pgproto3.CommandComplete:
			done[part] = true
		case *pgproto3.ReadyForQuery:
			if err == nil && (!done[part] || m.TxStatus != 'I') {
				err = broken("%s: the sync came back in state %c", tells[part], m.TxStatus)
			}
			part++
		}
	}
	if err == nil && rows != 1 {
		err = broken("head has %d rows", rows)
	}
	return h, err
}

// until lets whoever waits for the server go when ctx ends. What it gives is to be called when nobody does any more.
func (c lockedConn) until(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, c.hangUp)
}

// hangUp ends all waiting for the server, for good: the next thing to happen to this connection is that it is closed.
func (c lockedConn) hangUp() { _ = c.PgConn().Conn().SetDeadline(time.Unix(1, 0)) }
