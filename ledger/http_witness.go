package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bluesky-social/indigo/atproto/atdata"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/jackc/pgx/v5"

	"city-sync.org/citysync/internal/pg"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

const (
	maxWitnesses   = 32
	openingsPage   = 500
	openingsFresh  = 2 * time.Minute // between a witness's clock and ours
	maxOpeningRows = 2000
)

// bindWitnesses puts the quorum policy and the keys of its witnesses in the log, on the city's word.
func (l *Ledger) bindWitnesses(c *xrpc.Call) (any, error) {
	caller, err := l.auth.Caller(c)
	if err != nil {
		return nil, err
	}
	if caller != l.cfg.City {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.NotAuthorized, "only %s names witnesses", l.cfg.City)
	}
	var in struct {
		Policy    string `json:"policy"`
		Witnesses []struct {
			Name     string     `json:"name"`
			DID      syntax.DID `json:"did"`
			Openings bool       `json:"openings"`
		} `json:"witnesses"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	p, err := tlog.ParsePolicy([]byte(in.Policy))
	if err != nil {
		return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidPolicy", "%v", err)
	}
	cmd := rules.BindWitnesses{Policy: sha256.Sum256([]byte(in.Policy))}
	if len(p.Witnesses) > maxWitnesses || len(in.Witnesses) != len(p.Witnesses) || p.Quorum == "none" {
		return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidPolicy", "%d witnesses in the policy, at most %d, and %d named: each needs its DID, and a quorum",
			len(p.Witnesses), maxWitnesses, len(in.Witnesses))
	}
	for _, w := range in.Witnesses {
		if _, err := syntax.ParseDID(w.DID.String()); err != nil {
			return nil, xrpc.InvalidRequest("witness %.40q: %v", w.Name, err)
		}
		at := slices.IndexFunc(p.Witnesses, func(have tlog.PolicyWitness) bool { return have.Name == w.Name })
		if at < 0 || p.Class(w.Name) == "" {
			return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidPolicy", "%.40q is no witness of a group of the policy", w.Name)
		}
		next := rules.Witness{Org: w.DID, Key: p.Witnesses[at].Key, Class: p.Class(w.Name), Openings: w.Openings}
		if slices.ContainsFunc(cmd.Witnesses, func(have rules.Witness) bool { return have.Key == next.Key }) {
			return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidPolicy", "%.40q is named twice", w.Name)
		}
		cmd.Witnesses = append(cmd.Witnesses, next)
	}
	for _, log := range p.Logs {
		if !slices.Contains(l.logKeys(), log.Key) {
			return nil, xrpc.Errorf(http.StatusBadRequest, "InvalidPolicy", "the policy names a log that is not this one")
		}
	}
	return l.ask(c.Context(), "bind witnesses", func(ctx context.Context, b *batch) (any, error) {
		cmd.Now = b.now
		entries, err := b.decide(cmd)
		if err != nil {
			return nil, err
		}
		const keep = `insert into policy (hash, text, at) values ($1, $2, $3) on conflict do nothing`
		if _, err := b.tx.Exec(ctx, keep, cmd.Policy[:], in.Policy, b.now); err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
		return map[string]any{"entries": len(entries), "policy": hex.EncodeToString(cmd.Policy[:])}, nil
	})
}

// addCosignature takes what a witness brings by itself. The signature is all the authority there is.
func (l *Ledger) addCosignature(c *xrpc.Call) (any, error) {
	var in struct {
		TreeSize  int64  `json:"treeSize"`
		Signature string `json:"signature"`
	}
	if err := c.Body(&in); err != nil {
		return nil, err
	}
	if len(in.Signature) > 1000 || in.TreeSize < 1 || strings.Count(strings.TrimSuffix(in.Signature, "\n"), "\n") != 0 {
		return nil, xrpc.InvalidRequest("one signature line of at most 1000 bytes, and a tree size")
	}
	quorum, err := l.collector.add(c.Context(), in.TreeSize, in.Signature)
	if errors.Is(err, errNoWitness) {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.BadSignature, "%v", err)
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"treeSize": in.TreeSize, "quorum": quorum}, nil
}

// listOpenings gives what is sealed to a witness that has an agreement and signs for it. What was erased comes without a value.
func (l *Ledger) listOpenings(c *xrpc.Call) (any, error) {
	var raw json.RawMessage
	if err := c.Body(&raw); err != nil {
		return nil, err
	}
	in, signed, sig, err := readOpeningsRequest(raw)
	if err != nil {
		return nil, err
	}
	var w entry.Bind
	if keys := l.seq.keys.Load(); keys != nil {
		w = (*keys)[in.Witness]
	}
	p := l.collector.policy.Load()
	if !w.Openings || p == nil {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.NotAuthorized, "no witness of this key has an agreement")
	}
	if _, ok := p.Witness(w.Key); !ok {
		return nil, xrpc.Errorf(http.StatusForbidden, rules.NotAuthorized, "the policy in force does not name this witness")
	}
	key, err := tlog.ParseKey(w.Key)
	if err != nil {
		return nil, broken("key of witness %s: %w", w.Key, err)
	}
	if err := key.CheckData(signed, sig); err != nil {
		return nil, xrpc.Errorf(http.StatusUnauthorized, rules.BadSignature, "the signature is not that of the witness")
	}
	now := l.clock.Now()
	if d := now.Sub(in.at); d > openingsFresh || d < -openingsFresh {
		return nil, xrpc.Errorf(http.StatusUnauthorized, rules.BadSignature, "signed at %s, it is %s", in.At, stamp(now))
	}
	sum := sha256.Sum256(signed)
	fresh, err := pg.NewReplay(l.store.pool).Use(c.Context(), "openings "+hex.EncodeToString(sum[:]), now.Add(2*openingsFresh))
	if err != nil {
		return nil, err
	}
	if !fresh {
		return nil, xrpc.Errorf(http.StatusUnauthorized, rules.BadSignature, "the request came before")
	}
	return l.openings(c.Context(), in)
}

// witnessKeys are the witnesses that the log has bound, by key.
type witnessKeys map[string]entry.Bind

type openingsRequest struct {
	Witness string
	From    int64
	Limit   int64
	At      string
	at      time.Time
}

func readOpeningsRequest(raw []byte) (in *openingsRequest, signed, sig []byte, err error) {
	body, err := atdata.UnmarshalJSON(raw)
	if err != nil {
		return nil, nil, nil, xrpc.InvalidRequest("the body is no data of the network: %v", err)
	}
	bytes, ok := body["sig"].(atdata.Bytes)
	if !ok {
		return nil, nil, nil, xrpc.InvalidRequest("sig must be bytes")
	}
	delete(body, "sig")
	in = &openingsRequest{Limit: openingsPage}
	for name, v := range body {
		switch v := v.(type) {
		case string:
			switch name {
			case "witness":
				in.Witness = v
			case "at":
				in.At = v
			}
		case int64:
			switch name {
			case "from":
				in.From = v
			case "limit":
				in.Limit = v
			}
		default:
			return nil, nil, nil, xrpc.InvalidRequest("%.40q must be a text or a number", name)
		}
	}
	at, err := syntax.ParseDatetime(in.At)
	if err != nil {
		return nil, nil, nil, xrpc.InvalidRequest("at: %v", err)
	}
	in.at = at.Time()
	if in.From < 0 || in.Limit < 1 || in.Limit > maxOpeningRows || in.Witness == "" || len(in.Witness) > 512 {
		return nil, nil, nil, xrpc.InvalidRequest("witness, from or limit is out of bounds")
	}
	if signed, err = atdata.MarshalCBOR(body); err != nil {
		return nil, nil, nil, xrpc.InvalidRequest("the body has no canonical form: %v", err)
	}
	return in, signed, bytes, nil
}

func (l *Ledger) openings(ctx context.Context, in *openingsRequest) (any, error) {
	const list = `select seq, sealed from opening where seq >= $1 order by seq limit $2`
	size := l.seq.log.size()
	rows, err := l.store.pool.Query(ctx, list, in.From, in.Limit)
	if err != nil {
		return nil, fmt.Errorf("openings: %w", err)
	}
	views := []map[string]any{}
	next := size
	var seq int64
	var sealed []byte
	_, err = pgx.ForEachRow(rows, []any{&seq, &sealed}, func() error {
		v := map[string]any{"seq": seq}
		if sealed != nil {
			v["sealed"] = map[string]any{"$bytes": base64.RawStdEncoding.EncodeToString(sealed)}
		}
		views = append(views, v)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("openings: %w", err)
	}
	if int64(len(views)) == in.Limit {
		next = seq + 1
	}
	return map[string]any{"openings": views, "next": next}, nil
}

func (l *Ledger) servePolicy(w http.ResponseWriter, _ *http.Request) {
	p := l.collector.policy.Load()
	if p == nil {
		http.Error(w, "the log names no policy", http.StatusNotFound)
		return
	}
	serveText(w, p.text)
}

// serveCosigned gives the newest checkpoint that a quorum cosigned, with the cosignatures.
func (l *Ledger) serveCosigned(w http.ResponseWriter, _ *http.Request) {
	s := l.collector.newest.Load()
	if s == nil {
		http.Error(w, "no quorum has cosigned the log", http.StatusNotFound)
		return
	}
	serveText(w, s.Note)
}

// serveRound gives the checkpoint that waits for cosignatures.
func (l *Ledger) serveRound(w http.ResponseWriter, _ *http.Request) {
	cp := l.collector.open()
	if cp == nil {
		http.Error(w, "the log is empty", http.StatusNotFound)
		return
	}
	serveText(w, cp.Note)
}

func serveText(w http.ResponseWriter, text []byte) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // the client is gone: nobody to tell
}
