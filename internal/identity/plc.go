package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/xrpc"
)

const (
	maxAuditBytes = 8 << 20
	maxOpBytes    = 64 << 10
)

// ErrNotRegistered says that the directory knows no such DID, or that it was ended.
var ErrNotRegistered = errors.New("DID not registered")

// PLCError is a refusal by the directory. A 4xx is final for that operation; a 5xx may pass.
type PLCError struct {
	Status  int
	Message string
}

func (e *PLCError) Error() string { return fmt.Sprintf("plc directory: %d: %s", e.Status, e.Message) }

// PLC is a client of a did:plc directory.
type PLC struct {
	url string
	hc  *http.Client
}

// NewPLC makes a client. A nil hc is a guarded client that reaches public directories only.
func NewPLC(url string, hc *http.Client) *PLC {
	if hc == nil {
		hc = xrpc.GuardedClient(xrpc.GuardConfig{MaxBytes: maxAuditBytes})
	}
	return &PLC{url: strings.TrimSuffix(url, "/"), hc: hc}
}

// Submit registers an operation: a genesis makes the DID, any other changes it. Submitting an operation that is
// already the head succeeds, so that a lost answer can be asked for again.
func (p *PLC) Submit(ctx context.Context, did syntax.DID, op Operation) error {
	body, err := json.Marshal(op)
	if err != nil {
		return fmt.Errorf("submit operation of %s: %w", did, err)
	}
	_, err = p.do(ctx, http.MethodPost, "/"+did.String(), body, maxOpBytes)
	if err == nil {
		return nil
	}
	var refused *PLCError
	if errors.As(err, &refused) && refused.Status < 500 {
		if last, lerr := p.Last(ctx, did); lerr == nil && last.CID() == op.CID() {
			return nil
		}
	}
	return fmt.Errorf("submit operation of %s: %w", did, err)
}

// Last is the newest operation in force.
func (p *PLC) Last(ctx context.Context, did syntax.DID) (Operation, error) {
	var op Operation
	err := p.get(ctx, did, "/log/last", maxOpBytes, &op)
	return op, err
}

// Audit is the whole history, nullified operations included. It proves nothing before VerifyAudit.
func (p *PLC) Audit(ctx context.Context, did syntax.DID) ([]AuditEntry, error) {
	var es []AuditEntry
	err := p.get(ctx, did, "/log/audit", maxAuditBytes, &es)
	return es, err
}

// Data is the state in force, as the directory sums it up.
type Data struct {
	DID                 syntax.DID         `json:"did"`
	VerificationMethods map[string]string  `json:"verificationMethods"`
	RotationKeys        []string           `json:"rotationKeys"`
	AlsoKnownAs         []string           `json:"alsoKnownAs"`
	Services            map[string]Service `json:"services"`
}

// Data asks for the state in force.
func (p *PLC) Data(ctx context.Context, did syntax.DID) (Data, error) {
	var d Data
	if err := p.get(ctx, did, "/data", maxOpBytes, &d); err != nil {
		return Data{}, err
	}
	if d.DID != did {
		return Data{}, fmt.Errorf("state of %s: the directory answered for %s", did, d.DID)
	}
	return d, nil
}

func (p *PLC) get(ctx context.Context, did syntax.DID, what string, max int64, out any) error {
	raw, err := p.do(ctx, http.MethodGet, "/"+did.String()+what, nil, max)
	if err != nil {
		return fmt.Errorf("read %s%s: %w", did, what, err)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("read %s%s: %w", did, what, err)
	}
	return nil
}

func (p *PLC) do(ctx context.Context, verb, path string, body []byte, max int64) ([]byte, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, verb, p.url+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := readAtMost(resp.Body, max)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return raw, nil
	case verb == http.MethodGet && (resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone):
		return nil, ErrNotRegistered
	}
	var m struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &m) != nil || m.Message == "" || len(m.Message) > 1024 {
		m.Message = http.StatusText(resp.StatusCode)
	}
	return nil, &PLCError{Status: resp.StatusCode, Message: m.Message}
}

// readAtMost reads a body that must not be longer than max.
func readAtMost(r io.Reader, max int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > max {
		return nil, xrpc.ErrAnswerTooLarge
	}
	return raw, nil
}
