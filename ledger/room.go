package ledger

import "errors"

// room lends the connection what the next message takes, as a message of no bytes. The connection throws its buffer away after each flush
// and doubles the next one from a kilobyte on: for a large batch, twice what the batch itself has, and each time to be zeroed and collected.
// What was lent is the lender's again when the flush is over.
type room struct{ bytes []byte }

var errNotRead = errors.New("room is never read")

// Frontend implements pgproto3.FrontendMessage.
func (*room) Frontend() {}

// Decode implements pgproto3.FrontendMessage.
func (*room) Decode([]byte) error { return errNotRead }

// Encode implements pgproto3.FrontendMessage: what waits to be sent moves in.
func (r *room) Encode(waits []byte) ([]byte, error) { return append(r.bytes[:0], waits...), nil }

// atLeast makes room for so many bytes.
func (r *room) atLeast(n int) {
	if cap(r.bytes) < n {
		r.bytes = make([]byte, 0, n+n/4)
	}
}
