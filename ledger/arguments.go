package ledger

import (
	"encoding/binary"

	"github.com/jackc/pgx/v5/pgtype"
)

// arguments are the values of one call in PostgreSQL's binary form, one behind the other. The room they take is used again by the next call:
// a large batch has a megabyte of them. What is large stands last, since the connection's buffer grows argument by argument.
type arguments struct {
	room []byte
	ends []int
	sent []byte // the messages that bring them
}

func (a *arguments) reset() { a.room, a.ends = a.room[:0], a.ends[:0] }

// end closes the value that was appended to room.
func (a *arguments) end() { a.ends = append(a.ends, len(a.room)) }

// values are parts of room, until the next reset.
func (a *arguments) values() [][]byte {
	out, from := make([][]byte, len(a.ends)), 0
	for i, to := range a.ends {
		out[i], from = a.room[from:to:to], to
	}
	return out
}

func (a *arguments) int8(n int64) {
	a.room = binary.BigEndian.AppendUint64(a.room, uint64(n))
	a.end()
}

func (a *arguments) bytea(b []byte) {
	a.room = append(a.room, b...)
	a.end()
}

// list begins an array: dimensions, whether there are nulls, the type of its values, their number and the first one's index.
func (a *arguments) list(oid uint32, n int) {
	head := [...]uint32{1, 0, oid, uint32(n), 1}
	if n == 0 {
		head[0] = 0
	}
	for i, h := range head {
		if i < 3 || n > 0 {
			a.room = binary.BigEndian.AppendUint32(a.room, h)
		}
	}
}

func listOf[T any](a *arguments, list []T, oid uint32, value func(room []byte, v T) []byte) {
	a.list(oid, len(list))
	for _, v := range list {
		at := len(a.room)
		a.room = value(append(a.room, 0, 0, 0, 0), v)
		binary.BigEndian.PutUint32(a.room[at:], uint32(len(a.room)-at-4))
	}
	a.end()
}

func (a *arguments) int8s(list []int64) {
	listOf(a, list, pgtype.Int8OID, func(room []byte, n int64) []byte { return binary.BigEndian.AppendUint64(room, uint64(n)) })
}

func (a *arguments) int4s(list []int32) {
	listOf(a, list, pgtype.Int4OID, func(room []byte, n int32) []byte { return binary.BigEndian.AppendUint32(room, uint32(n)) })
}

func (a *arguments) texts(list []string) {
	listOf(a, list, pgtype.TextOID, func(room []byte, s string) []byte { return append(room, s...) })
}
