package dagcbor

import (
	"encoding/binary"

	"github.com/ipfs/go-cid"
)

// The Append functions write canonical heads. The caller writes map keys in
// order: shorter first, then bytewise.

// AppendInt appends an integer.
func AppendInt(b []byte, v int64) []byte {
	if v < 0 {
		return appendHead(b, majorNeg, uint64(-1-v))
	}
	return appendHead(b, majorUint, uint64(v))
}

// AppendBytes appends a byte string.
func AppendBytes(b, v []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(v))), v...)
}

// AppendText appends a text string, which the caller knows to be UTF-8.
func AppendText(b []byte, v string) []byte {
	return append(appendHead(b, majorText, uint64(len(v))), v...)
}

// AppendBool appends true or false.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, byteTrue)
	}
	return append(b, byteFalse)
}

// AppendNull appends null.
func AppendNull(b []byte) []byte { return append(b, byteNull) }

// AppendArray appends the head of an array of n elements.
func AppendArray(b []byte, n int) []byte { return appendHead(b, majorArray, uint64(n)) }

// AppendMap appends the head of a map of n entries.
func AppendMap(b []byte, n int) []byte { return appendHead(b, majorMap, uint64(n)) }

// AppendCID appends a link.
func AppendCID(b []byte, c cid.Cid) []byte {
	raw := c.KeyString()
	b = appendHead(b, majorTag, tagCID)
	b = appendHead(b, majorBytes, uint64(len(raw)+1))
	return append(append(b, 0), raw...)
}

// AppendCIDOrNull appends a link, or null for nil.
func AppendCIDOrNull(b []byte, c *cid.Cid) []byte {
	if c == nil {
		return AppendNull(b)
	}
	return AppendCID(b, *c)
}

func appendHead(b []byte, major byte, v uint64) []byte {
	m := major << 5
	switch {
	case v < 24:
		return append(b, m|byte(v))
	case v < 1<<8:
		return append(b, m|24, byte(v))
	case v < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, m|25), uint16(v))
	case v < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, m|26), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, m|27), v)
}
