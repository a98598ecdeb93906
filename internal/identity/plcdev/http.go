package plcdev

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/internal/identity"
)

const (
	maxExport   = 1000
	maxPostBody = 64 << 10
)

// Handler serves the HTTP API of the public directory: the document, its data, the logs, the export, and POST of
// an operation.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_health", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, "application/json", map[string]string{"version": "citysync"})
	})
	mux.HandleFunc("GET /export", s.export)
	mux.HandleFunc("GET /{did}", s.read(func(w http.ResponseWriter, did syntax.DID) error {
		op, err := s.current(did)
		if err != nil {
			return err
		}
		reply(w, "application/did+ld+json", identity.DocumentOf(did, op))
		return nil
	}))
	mux.HandleFunc("GET /{did}/data", s.read(func(w http.ResponseWriter, did syntax.DID) error {
		op, err := s.current(did)
		if err != nil {
			return err
		}
		reply(w, "application/json", identity.Data{DID: did, VerificationMethods: op.VerificationMethods,
			RotationKeys: op.RotationKeys, AlsoKnownAs: op.AlsoKnownAs, Services: op.Services})
		return nil
	}))
	mux.HandleFunc("GET /{did}/log", s.read(func(w http.ResponseWriter, did syntax.DID) error {
		es, err := s.audit(did)
		if err != nil {
			return err
		}
		ops := make([]identity.Operation, 0, len(es))
		for _, e := range es {
			if !e.Nullified {
				ops = append(ops, e.Operation)
			}
		}
		reply(w, "application/json", ops)
		return nil
	}))
	mux.HandleFunc("GET /{did}/log/audit", s.read(func(w http.ResponseWriter, did syntax.DID) error {
		es, err := s.audit(did)
		if err != nil {
			return err
		}
		reply(w, "application/json", es)
		return nil
	}))
	mux.HandleFunc("GET /{did}/log/last", s.read(func(w http.ResponseWriter, did syntax.DID) error {
		op, err := s.last(did)
		if err != nil {
			return err
		}
		reply(w, "application/json", op)
		return nil
	}))
	mux.HandleFunc("POST /{did}", s.submit)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
			h.Set("Access-Control-Allow-Headers", "Content-Type")
			h.Set("Access-Control-Max-Age", "86400")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// current is the operation in force; a DID that was ended has none.
func (s *Server) current(did syntax.DID) (identity.Operation, error) {
	op, err := s.last(did)
	if err == nil && op.IsTombstone() {
		return op, errNotRegistered
	}
	return op, err
}

func (s *Server) read(fn func(http.ResponseWriter, syntax.DID) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		did, err := parseDID(r)
		if err == nil {
			err = fn(w, did)
		}
		if err != nil {
			fail(w, err)
		}
	}
}

func parseDID(r *http.Request) (syntax.DID, error) {
	did, err := syntax.ParseDID(r.PathValue("did"))
	if err != nil || did.Method() != "plc" {
		return "", errNotRegistered
	}
	return did, nil
}

func (s *Server) submit(w http.ResponseWriter, r *http.Request) {
	did, err := parseDID(r)
	if err != nil {
		fail(w, invalid("the path is no did:plc"))
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPostBody))
	if err != nil {
		fail(w, invalid("the body is longer than %d bytes or broken", maxPostBody))
		return
	}
	var op identity.Operation
	if err := op.UnmarshalJSON(raw); err != nil {
		fail(w, err)
		return
	}
	if err := s.Add(did, op); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	count := maxExport
	if v := r.URL.Query().Get("count"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			fail(w, invalid("count"))
			return
		}
		count = min(n, maxExport)
	}
	after := r.URL.Query().Get("after")
	seq, numErr := strconv.ParseUint(after, 10, 31)
	var since time.Time
	if after != "" && numErr != nil {
		at, err := syntax.ParseDatetime(after)
		if err != nil {
			fail(w, invalid("after"))
			return
		}
		since = at.Time()
	}
	page := s.page(numErr == nil, int(seq), since, count)
	w.Header().Set("Content-Type", "application/jsonlines")
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(out)
	for _, line := range page {
		if enc.Encode(line) != nil {
			return // the reader has gone
		}
	}
	_ = out.Flush()
}

type sequenced struct {
	Type      string             `json:"type"`
	Operation identity.Operation `json:"operation"`
	DID       syntax.DID         `json:"did"`
	CID       string             `json:"cid"`
	CreatedAt string             `json:"createdAt"`
	Seq       int                `json:"seq"`
}

// page is one page of the export: by sequence number, or in the older form by time.
func (s *Server) page(bySeq bool, seq int, since time.Time, count int) []any {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []any
	start := 0
	if bySeq {
		start = min(seq, len(s.log))
	}
	for i := start; i < len(s.log) && len(out) < count; i++ {
		e := s.log[i]
		switch {
		case bySeq:
			out = append(out, sequenced{"sequenced_op", e.Operation, e.DID, e.CID, identity.FormatTime(e.CreatedAt), i + 1})
		case e.CreatedAt.After(since):
			out = append(out, e)
		}
	}
	return out
}

func reply(w http.ResponseWriter, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body) // the reader has gone if this errs
}

// fail answers {message}: 404 for a DID that is not there, 400 for an operation that is refused, else 500.
func fail(w http.ResponseWriter, err error) {
	status, message := http.StatusInternalServerError, "internal error"
	switch {
	case errors.Is(err, errNotRegistered):
		status, message = http.StatusNotFound, err.Error()
	case errors.Is(err, errStore):
	case errors.Is(err, errInvalid), errors.Is(err, errFull), errors.Is(err, identity.ErrMalformed),
		errors.Is(err, identity.ErrSignature), errors.Is(err, identity.ErrGenesis),
		errors.Is(err, identity.ErrMisordered), errors.Is(err, identity.ErrLateRecovery):
		status, message = http.StatusBadRequest, err.Error()
	}
	body, _ := json.Marshal(map[string]string{"message": message}) // two texts always encode
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
