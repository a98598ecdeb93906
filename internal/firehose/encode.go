package firehose

import (
	"fmt"

	"city-sync.org/citysync/internal/repo/dagcbor"
)

// Encode writes an event as one frame. The sequence must be final: frames are
// stored and sent as these bytes.
func Encode(ev Event) ([]byte, error) {
	if n := ev.Sequence(); n != 0 {
		before, after, err := Split(ev)
		if err != nil {
			return nil, err
		}
		return Join(before, n, after), nil
	}
	b, _, err := encode(ev)
	return b, err
}

// Split writes an event as the bytes of its frame before and after its sequence, for a
// store that gives the number itself. Both share one array: appending to the first
// overwrites nothing of the second.
func Split(ev Event) (before, after []byte, err error) {
	b, at, err := encode(ev)
	if err != nil {
		return nil, nil, err
	}
	if at == 0 {
		return nil, nil, fmt.Errorf("encode frame: %T has no sequence", ev)
	}
	return b[:at:at], b[at+1:], nil // one byte between them: the number 0
}

// Join makes the frame of what [Split] gave, with its sequence.
func Join(before []byte, seq int64, after []byte) []byte {
	b := append(make([]byte, 0, len(before)+9+len(after)), before...)
	return append(dagcbor.AppendInt(b, seq), after...)
}

// encode writes an event with the sequence 0, and says where that stands; nowhere is 0.
func encode(ev Event) (b []byte, at int, err error) {
	switch e := ev.(type) {
	case *Commit:
		return encodeCommit(e)
	case *Sync:
		b := header("#sync", 256+len(e.Blocks))
		b = dagcbor.AppendMap(b, 5)
		b = text(b, "did", string(e.DID))
		b = text(b, "rev", e.Rev)
		b, at = unnumbered(b)
		b = text(b, "time", e.Time)
		return dagcbor.AppendBytes(dagcbor.AppendText(b, "blocks"), e.Blocks), at, nil
	case *Identity:
		b := header("#identity", 256)
		b = dagcbor.AppendMap(b, 3+present(e.Handle))
		b = text(b, "did", string(e.DID))
		b, at = unnumbered(b)
		b = text(b, "time", e.Time)
		return optional(b, "handle", e.Handle), at, nil
	case *Account:
		b := header("#account", 256)
		b = dagcbor.AppendMap(b, 4+present(e.Status))
		b = text(b, "did", string(e.DID))
		b, at = unnumbered(b)
		b = text(b, "time", e.Time)
		b = dagcbor.AppendBool(dagcbor.AppendText(b, "active"), e.Active)
		return optional(b, "status", e.Status), at, nil
	case *Info:
		b := header("#info", 256)
		b = dagcbor.AppendMap(b, 1+present(e.Message))
		b = text(b, "name", e.Name)
		return optional(b, "message", e.Message), 0, nil
	case *Failure:
		return ErrorFrame(e.Name, e.Message), 0, nil
	}
	return nil, 0, fmt.Errorf("encode frame: %T has no frame", ev)
}

// unnumbered writes the number 0 under its key, and says where it stands.
func unnumbered(b []byte) ([]byte, int) {
	b = dagcbor.AppendText(b, "seq")
	return dagcbor.AppendInt(b, 0), len(b)
}

// ErrorFrame is the frame a server sends last, before it closes.
func ErrorFrame(name, message string) []byte {
	b := dagcbor.AppendMap(nil, 1)
	b = dagcbor.AppendInt(dagcbor.AppendText(b, "op"), -1)
	b = dagcbor.AppendMap(b, 1+present(message))
	b = text(b, "error", name)
	return optional(b, "message", message)
}

func encodeCommit(e *Commit) ([]byte, int, error) {
	if len(e.Ops) > MaxOps || len(e.Blocks) > MaxBlocks {
		return nil, 0, fmt.Errorf("encode commit %s of %s: over the limits of a frame", e.Rev, e.DID)
	}
	fields := 11
	if e.PrevData != nil {
		fields++
	}
	b := header("#commit", 512+len(e.Blocks)+160*len(e.Ops))
	b = dagcbor.AppendMap(b, fields)
	b = dagcbor.AppendArray(dagcbor.AppendText(b, "ops"), len(e.Ops))
	for _, op := range e.Ops {
		b = appendOp(b, op)
	}
	b = text(b, "rev", e.Rev)
	b, at := unnumbered(b)
	b = text(b, "repo", string(e.DID))
	b = text(b, "time", e.Time)
	b = dagcbor.AppendArray(dagcbor.AppendText(b, "blobs"), 0)
	b = dagcbor.AppendText(b, "since")
	if e.Since == "" {
		b = dagcbor.AppendNull(b)
	} else {
		b = dagcbor.AppendText(b, e.Since)
	}
	b = dagcbor.AppendBytes(dagcbor.AppendText(b, "blocks"), e.Blocks)
	b = dagcbor.AppendCID(dagcbor.AppendText(b, "commit"), e.Commit)
	b = dagcbor.AppendBool(dagcbor.AppendText(b, "rebase"), e.Rebase)
	b = dagcbor.AppendBool(dagcbor.AppendText(b, "tooBig"), e.TooBig)
	if e.PrevData != nil {
		b = dagcbor.AppendCID(dagcbor.AppendText(b, "prevData"), *e.PrevData)
	}
	return b, at, nil
}

func appendOp(b []byte, op Op) []byte {
	fields := 3
	if op.Prev != nil {
		fields++
	}
	b = dagcbor.AppendMap(b, fields)
	b = dagcbor.AppendCIDOrNull(dagcbor.AppendText(b, "cid"), op.CID)
	b = text(b, "path", op.Path)
	if op.Prev != nil {
		b = dagcbor.AppendCID(dagcbor.AppendText(b, "prev"), *op.Prev)
	}
	return text(b, "action", op.Action)
}

func header(kind string, size int) []byte {
	b := dagcbor.AppendMap(make([]byte, 0, size), 2)
	b = text(b, "t", kind)
	return dagcbor.AppendInt(dagcbor.AppendText(b, "op"), 1)
}

func text(b []byte, key, value string) []byte {
	return dagcbor.AppendText(dagcbor.AppendText(b, key), value)
}

func optional(b []byte, key, value string) []byte {
	if value == "" {
		return b
	}
	return text(b, key, value)
}

func present(s string) int {
	if s == "" {
		return 0
	}
	return 1
}
