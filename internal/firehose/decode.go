package firehose

import (
	"errors"
	"fmt"

	"city-sync.org/citysync/internal/repo/dagcbor"
	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/ipfs/go-cid"
)

// ErrFrame is wrapped by every error of [Decode].
var ErrFrame = errors.New("bad frame")

// Decode reads one frame. Fields it does not know are checked and skipped, so
// that the protocol may grow; a missing or ill-typed known field is an error.
// Byte slices in the event share the frame's memory.
func Decode(frame []byte) (Event, error) {
	ev, err := decode(frame)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return ev, nil
}

func decode(frame []byte) (Event, error) {
	if len(frame) > MaxFrame {
		return nil, fmt.Errorf("%d bytes", len(frame))
	}
	r := dagcbor.NewReader(frame)
	var op int64
	var kind string
	err := fields(r, func(key string) (err error) {
		switch key {
		case "op":
			op, err = r.Int()
		case "t":
			kind, err = r.Text()
		default:
			err = r.Skip()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var ev Event
	switch {
	case op == -1:
		ev, err = decodeFailure(r)
	case op != 1:
		ev, err = &Unknown{Type: fmt.Sprintf("op %d", op)}, r.Skip()
	default:
		ev, err = decodeBody(r, kind)
	}
	if err != nil {
		return nil, err
	}
	return ev, r.End()
}

func decodeBody(r *dagcbor.Reader, kind string) (Event, error) {
	switch kind {
	case "#commit":
		return decodeCommit(r)
	case "#sync":
		return decodeSync(r)
	case "#identity":
		return decodeIdentity(r)
	case "#account":
		return decodeAccount(r)
	case "#info":
		return decodeInfo(r)
	}
	return &Unknown{Type: kind}, r.Skip()
}

func decodeCommit(r *dagcbor.Reader) (Event, error) {
	var e Commit
	seen := need{}
	err := fields(r, func(key string) (err error) {
		seen[key] = true
		switch key {
		case "seq":
			e.Seq, err = sequence(r)
		case "repo":
			e.DID, err = did(r)
		case "commit":
			e.Commit, err = r.CID()
		case "rev":
			e.Rev, err = r.Text()
		case "since":
			e.Since, err = textOrNull(r)
		case "prevData":
			e.PrevData, err = cidOrNull(r)
		case "ops":
			e.Ops, err = decodeOps(r)
		case "blocks":
			e.Blocks, err = r.Bytes()
		case "time":
			e.Time, err = r.Text()
		case "tooBig":
			e.TooBig, err = r.Bool()
		case "rebase":
			e.Rebase, err = r.Bool()
		case "blobs":
			err = skipBlobs(r)
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil {
		err = seen.all("seq", "repo", "commit", "rev", "ops", "blocks", "time")
	}
	return &e, err
}

func decodeOps(r *dagcbor.Reader) ([]Op, error) {
	if r.Null() {
		return nil, nil
	}
	n, err := r.Array()
	if err != nil {
		return nil, err
	}
	if n > maxOpsRead {
		return nil, fmt.Errorf("%d ops", n)
	}
	ops := make([]Op, n)
	for i := range ops {
		op, seen := &ops[i], need{}
		err := fields(r, func(key string) (err error) {
			seen[key] = true
			switch key {
			case "action":
				op.Action, err = r.Text()
			case "path":
				op.Path, err = r.Text()
			case "cid":
				op.CID, err = cidOrNull(r)
			case "prev":
				op.Prev, err = cidOrNull(r)
			default:
				err = r.Skip()
			}
			return err
		})
		if err == nil {
			err = seen.all("action", "path")
		}
		if err != nil {
			return nil, err
		}
	}
	return ops, nil
}

func decodeSync(r *dagcbor.Reader) (Event, error) {
	var e Sync
	seen := need{}
	err := fields(r, func(key string) (err error) {
		seen[key] = true
		switch key {
		case "seq":
			e.Seq, err = sequence(r)
		case "did":
			e.DID, err = did(r)
		case "rev":
			e.Rev, err = r.Text()
		case "blocks":
			e.Blocks, err = r.Bytes()
		case "time":
			e.Time, err = r.Text()
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil {
		err = seen.all("seq", "did", "rev", "blocks", "time")
	}
	return &e, err
}

func decodeIdentity(r *dagcbor.Reader) (Event, error) {
	var e Identity
	seen := need{}
	err := fields(r, func(key string) (err error) {
		seen[key] = true
		switch key {
		case "seq":
			e.Seq, err = sequence(r)
		case "did":
			e.DID, err = did(r)
		case "handle":
			e.Handle, err = textOrNull(r)
		case "time":
			e.Time, err = r.Text()
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil {
		err = seen.all("seq", "did", "time")
	}
	return &e, err
}

func decodeAccount(r *dagcbor.Reader) (Event, error) {
	var e Account
	seen := need{}
	err := fields(r, func(key string) (err error) {
		seen[key] = true
		switch key {
		case "seq":
			e.Seq, err = sequence(r)
		case "did":
			e.DID, err = did(r)
		case "active":
			e.Active, err = r.Bool()
		case "status":
			e.Status, err = textOrNull(r)
		case "time":
			e.Time, err = r.Text()
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil {
		err = seen.all("seq", "did", "active", "time")
	}
	return &e, err
}

func decodeInfo(r *dagcbor.Reader) (Event, error) {
	name, message, err := named(r, "name")
	return &Info{Name: name, Message: message}, err
}

func decodeFailure(r *dagcbor.Reader) (Event, error) {
	name, message, err := named(r, "error")
	return &Failure{Name: name, Message: message}, err
}

func named(r *dagcbor.Reader, nameKey string) (name, message string, err error) {
	err = fields(r, func(key string) (err error) {
		switch key {
		case nameKey:
			name, err = r.Text()
		case "message":
			message, err = textOrNull(r)
		default:
			err = r.Skip()
		}
		return err
	})
	if err == nil && name == "" {
		err = fmt.Errorf("%s missing", nameKey)
	}
	return name, message, err
}

// fields reads a map and calls read for the value of each key.
func fields(r *dagcbor.Reader, read func(key string) error) error {
	n, err := r.Map()
	if err != nil {
		return err
	}
	keys := r.Keys()
	for range n {
		key, err := keys.Next()
		if err != nil {
			return err
		}
		if err := read(key); err != nil {
			return err
		}
	}
	return nil
}

type need map[string]bool

func (n need) all(keys ...string) error {
	for _, k := range keys {
		if !n[k] {
			return fmt.Errorf("%s missing", k)
		}
	}
	return nil
}

func sequence(r *dagcbor.Reader) (int64, error) {
	n, err := r.Int()
	if err == nil && n < 1 {
		err = fmt.Errorf("seq %d", n)
	}
	return n, err
}

func did(r *dagcbor.Reader) (syntax.DID, error) {
	s, err := r.Text()
	if err != nil {
		return "", err
	}
	return syntax.ParseDID(s)
}

func textOrNull(r *dagcbor.Reader) (string, error) {
	if r.Null() {
		return "", nil
	}
	return r.Text()
}

func cidOrNull(r *dagcbor.Reader) (*cid.Cid, error) {
	if r.Null() {
		return nil, nil
	}
	c, err := r.CID()
	if err != nil {
		return nil, err
	}
	return &c, nil
}

func skipBlobs(r *dagcbor.Reader) error {
	if r.Null() {
		return nil
	}
	n, err := r.Array()
	if err != nil {
		return err
	}
	if n > maxBlobs {
		return fmt.Errorf("%d blobs", n)
	}
	for range n {
		if _, err := r.CID(); err != nil {
			return err
		}
	}
	return nil
}
