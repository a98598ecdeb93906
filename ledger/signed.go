package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/bluesky-social/indigo/atproto/atcrypto"
	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/rules"
)

// said is what a till sent and signed.
type said struct {
	till   string
	at     time.Time // by the till's clock
	fields map[string]any
	signed []byte // the DAG-CBOR that the signature stands over
}

func (s *said) word(name string) string { w, _ := s.fields[name].(string); return w }

func (s *said) number(name string) int64 { n, _ := s.fields[name].(int64); return n }

// readSigned reads a body and gives the bytes that its signature stands over: its DAG-CBOR without sig. It is flat, so its form costs
// no more than its length, whoever sent it.
func readSigned(raw []byte) (in *said, sig []byte, err error) {
	body, err := atdata.UnmarshalJSON(raw)
	if err != nil {
		return nil, nil, xrpc.InvalidRequest("the body is no data of the network: %v", err)
	}
	sig, ok := body["sig"].(atdata.Bytes)
	if !ok {
		return nil, nil, xrpc.InvalidRequest("sig must be bytes")
	}
	delete(body, "sig")
	for name, v := range body {
		switch v.(type) {
		case map[string]any, []any:
			return nil, nil, xrpc.InvalidRequest("%.40q must be a single value", name)
		}
	}
	in = &said{fields: body}
	if in.signed, err = atdata.MarshalCBOR(body); err != nil {
		return nil, nil, xrpc.InvalidRequest("the body has no canonical form: %v", err)
	}
	at, err := syntax.ParseDatetime(in.word("at"))
	if err != nil {
		return nil, nil, xrpc.InvalidRequest("at: %v", err)
	}
	in.till, in.at = in.word("till"), at.Time().UTC().Truncate(time.Microsecond)
	if len(in.till) > 64 {
		return nil, nil, xrpc.InvalidRequest("till is too long")
	}
	return in, sig, nil
}

// byTill reads a body and checks that its till signed it. No account is asked.
func (l *Ledger) byTill(c *xrpc.Call) (*said, error) {
	var raw json.RawMessage
	if err := c.Body(&raw); err != nil {
		return nil, err
	}
	in, sig, err := readSigned(raw)
	if err != nil {
		return nil, err
	}
	return in, l.checkSig(c, in, sig)
}

func (l *Ledger) checkSig(c *xrpc.Call, in *said, sig []byte) error {
	var didKey string
	err := l.store.pool.QueryRow(c.Context(), `select key from till where id = $1`, printable(in.till)).Scan(&didKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return xrpc.Errorf(http.StatusForbidden, rules.TillUnknown, "the till is not bound")
	}
	if err != nil {
		return fmt.Errorf("till: %w", err)
	}
	key, err := atcrypto.ParsePublicDIDKey(didKey)
	if err != nil {
		return broken("key of till %s: %w", in.till, err)
	}
	// Browsers make high-S signatures half of the time: this one check is lenient.
	if err := key.HashAndVerifyLenient(in.signed, sig); err != nil {
		return xrpc.Errorf(http.StatusUnauthorized, rules.BadSignature, "the signature is not that of the till")
	}
	return nil
}

// request makes the hash of what was signed the idempotency key.
func (s *said) request(method string) (*request, error) {
	sum := sha256.Sum256(s.signed)
	return newRequest(method, s.till, hex.EncodeToString(sum[:]), s.signed)
}
