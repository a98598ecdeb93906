package signer

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"city-sync.org/citysync/ledger/tlog"
)

const (
	maxBody    = 64 << 10
	askTimeout = 10 * time.Second
)

type asked struct {
	Text  string   `json:"text"` // of the checkpoint or the voucher
	Keys  []string `json:"keys"`
	Old   int64    `json:"old"`
	Proof [][]byte `json:"proof"`
}

type answered struct {
	Keys  []string `json:"keys,omitempty"`
	Size  int64    `json:"size,omitempty"`
	Note  string   `json:"note,omitempty"`
	Error string   `json:"error,omitempty"`
}

// Handler serves a signer to the one who has the token.
func Handler(s Signer, token []byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) {
		size, err := s.Last(r.Context())
		reply(w, answered{Keys: s.Keys(), Size: size}, err)
	})
	mux.HandleFunc("POST /sign", func(w http.ResponseWriter, r *http.Request) {
		in, err := readAsked(w, r)
		if err != nil {
			reply(w, answered{}, err)
			return
		}
		req := Request{Keys: in.Keys, Old: in.Old}
		if req.Checkpoint, err = tlog.ParseCheckpoint(in.Text); err != nil {
			reply(w, answered{}, fmt.Errorf("%w: %w", ErrRefused, err))
			return
		}
		for _, raw := range in.Proof {
			var h tlog.Hash
			if len(raw) != len(h) || len(in.Proof) > 64 {
				reply(w, answered{}, fmt.Errorf("%w: no proof", ErrRefused))
				return
			}
			copy(h[:], raw)
			req.Proof = append(req.Proof, h)
		}
		signed, err := s.Sign(r.Context(), req)
		reply(w, answered{Note: string(signed)}, err)
	})
	mux.HandleFunc("POST /voucher", func(w http.ResponseWriter, r *http.Request) {
		in, err := readAsked(w, r)
		if err != nil {
			reply(w, answered{}, err)
			return
		}
		signed, err := s.Voucher(r.Context(), in.Text, in.Keys)
		reply(w, answered{Note: string(signed)}, err)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if len(token) == 0 || subtle.ConstantTimeCompare([]byte(given), token) != 1 {
			http.Error(w, "not you", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func readAsked(w http.ResponseWriter, r *http.Request) (in asked, err error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(raw, &in)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return in, err
}

func reply(w http.ResponseWriter, out answered, err error) {
	status := http.StatusOK
	if err != nil {
		out, status = answered{Error: err.Error()}, http.StatusInternalServerError
		if errors.Is(err, ErrRefused) {
			status = http.StatusForbidden
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out) // the client is gone: nobody to tell
}

// Remote is a signer in another process of this machine.
type Remote struct {
	http  *http.Client
	base  string
	token string
	keys  []string
}

// Dial reaches a signer at unix:PATH, or at http://127.0.0.1:PORT, and asks which keys it has.
func Dial(ctx context.Context, address string, token []byte) (*Remote, error) {
	r := &Remote{base: strings.TrimRight(address, "/"), token: string(token)}
	transport := &http.Transport{MaxIdleConns: 4, IdleConnTimeout: time.Minute} // no proxy: it is on this machine
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		r.base = "http://signer"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
	}
	r.http = &http.Client{Transport: transport, Timeout: askTimeout}
	state, err := r.ask(ctx, http.MethodGet, "/state", nil)
	if err != nil {
		return nil, err
	}
	if len(state.Keys) == 0 {
		return nil, errors.New("signer: it has no key")
	}
	r.keys = state.Keys
	return r, nil
}

func (r *Remote) ask(ctx context.Context, verb, path string, in any) (*answered, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, verb, r.base+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxBody))
	if err != nil {
		return nil, fmt.Errorf("signer: %w", err)
	}
	out := &answered{}
	switch err := json.Unmarshal(body, out); {
	case resp.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("%w: %s", ErrRefused, out.Error)
	case resp.StatusCode != http.StatusOK || err != nil:
		return nil, fmt.Errorf("signer answered %d: %.200q", resp.StatusCode, body)
	}
	return out, nil
}

// Keys implements Signer.
func (r *Remote) Keys() []string { return r.keys }

// Last implements Signer.
func (r *Remote) Last(ctx context.Context) (int64, error) {
	state, err := r.ask(ctx, http.MethodGet, "/state", nil)
	if err != nil {
		return 0, err
	}
	return state.Size, nil
}

// Sign implements Signer.
func (r *Remote) Sign(ctx context.Context, req Request) ([]byte, error) {
	in := asked{Text: req.Checkpoint.Text(), Keys: req.Keys, Old: req.Old}
	for _, h := range req.Proof {
		in.Proof = append(in.Proof, append([]byte(nil), h[:]...))
	}
	out, err := r.ask(ctx, http.MethodPost, "/sign", in)
	if err != nil {
		return nil, err
	}
	return []byte(out.Note), nil
}

// Voucher implements Signer.
func (r *Remote) Voucher(ctx context.Context, text string, keys []string) ([]byte, error) {
	out, err := r.ask(ctx, http.MethodPost, "/voucher", asked{Text: text, Keys: keys})
	if err != nil {
		return nil, err
	}
	return []byte(out.Note), nil
}
