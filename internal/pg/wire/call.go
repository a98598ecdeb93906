package wire

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// message lends the connection what the next message takes, as a message of no bytes. The connection throws its buffer away after each flush
// and doubles the next one from a kilobyte on: for a large call, twice what the call itself has, and each time to be zeroed and collected.
// What was lent is the lender's again when the flush is over.
type message struct{ bytes []byte }

var errNotRead = errors.New("room is never read")

// Frontend implements pgproto3.FrontendMessage.
func (*message) Frontend() {}

// Decode implements pgproto3.FrontendMessage.
func (*message) Decode([]byte) error { return errNotRead }

// Encode implements pgproto3.FrontendMessage: what waits to be sent moves in.
func (m *message) Encode(waits []byte) ([]byte, error) { return append(m.bytes[:0], waits...), nil }

// roomy is to be sent before the call: it has room for the message that brings the values, and for the short ones beside it.
func (a *Arguments) roomy() *message {
	if n := a.Size(); cap(a.sent.bytes) < n {
		a.sent.bytes = make([]byte, 0, n+n/4)
	}
	return &a.sent
}

var binaryForm = []int16{1}

// Queue puts a call with these values into a pipeline; its rows come in binary form.
func (a *Arguments) Queue(conn *pgconn.PgConn, p *pgconn.Pipeline, statement *pgconn.StatementDescription) {
	conn.Frontend().Send(a.roomy())
	p.SendQueryStatement(statement, a.Values(), binaryForm, binaryForm)
}

// Flush sends what a pipeline holds. The pipeline's own flush sets an alarm against a server that does not read because it waits for us to:
// that wakes another processor before anything is sent. So the bytes go first. What the server has to say before the pipeline's end must fit
// in its buffer.
func Flush(conn *pgconn.PgConn, p *pgconn.Pipeline) error {
	if err := conn.Frontend().Flush(); err != nil {
		return err
	}
	return p.Flush()
}

// Answer is the next statement's result.
func Answer(p *pgconn.Pipeline) (*pgconn.Result, error) {
	next, err := p.GetResults()
	if err != nil {
		return nil, err
	}
	reader, ok := next.(*pgconn.ResultReader)
	if !ok {
		return nil, fmt.Errorf("a statement was answered by %T", next)
	}
	read := reader.Read()
	return read, read.Err
}
