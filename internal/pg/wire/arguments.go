// Package wire calls a prepared statement whose arguments are many: it writes them in PostgreSQL's binary form into room that is used again,
// where pgx would make a buffer for each call and throw it away.
//
// What a caller keeps: one Arguments belongs to one caller at a time, and nothing of it is looked at after Reset.
package wire

import (
	"encoding/binary"
	"iter"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Arguments are the values of one call, one behind the other. The zero value is ready.
type Arguments struct {
	room []byte
	ends []int
	sent message
}

// Reset forgets the values and keeps the room.
func (a *Arguments) Reset() { a.room, a.ends = a.room[:0], a.ends[:0] }

// end closes the value that was appended to room.
func (a *Arguments) end() { a.ends = append(a.ends, len(a.room)) }

// Size is that of the message which brings the values, at most.
func (a *Arguments) Size() int { return len(a.room) + 4*len(a.ends) + 1<<10 }

// Values are parts of the room, until the next Reset.
func (a *Arguments) Values() [][]byte {
	out, from := make([][]byte, len(a.ends)), 0
	for i, to := range a.ends {
		out[i], from = a.room[from:to:to], to
	}
	return out
}

// Int8 adds a bigint.
func (a *Arguments) Int8(n int64) {
	a.room = binary.BigEndian.AppendUint64(a.room, uint64(n))
	a.end()
}

// Bytea adds a bytea.
func (a *Arguments) Bytea(b []byte) {
	a.room = append(a.room, b...)
	a.end()
}

// Parts adds a bytea of what parts yields, one behind the other.
func (a *Arguments) Parts(parts iter.Seq[[]byte]) {
	for b := range parts {
		a.room = append(a.room, b...)
	}
	a.end()
}

// epoch is where PostgreSQL's clock begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Timestamptz adds a moment, to the microsecond.
func (a *Arguments) Timestamptz(t time.Time) { a.Int8(t.UnixMicro() - epoch.UnixMicro()) }

// Int8s adds a bigint[].
func (a *Arguments) Int8s(list []int64) {
	listOf(a, list, pgtype.Int8OID, func(room []byte, n int64) []byte { return binary.BigEndian.AppendUint64(room, uint64(n)) })
}

// Int4s adds an int[].
func (a *Arguments) Int4s(list []int32) { Int4sOf(a, list, func(n int32) int32 { return n }) }

// Texts adds a text[].
func (a *Arguments) Texts(list []string) { TextsOf(a, list, func(s string) string { return s }) }

// Int4sOf adds an int[] with one number for each of a list.
func Int4sOf[T any](a *Arguments, list []T, number func(T) int32) {
	listOf(a, list, pgtype.Int4OID, func(room []byte, v T) []byte { return binary.BigEndian.AppendUint32(room, uint32(number(v))) })
}

// TextsOf adds a text[] with one text for each of a list.
func TextsOf[T any](a *Arguments, list []T, text func(T) string) {
	listOf(a, list, pgtype.TextOID, func(room []byte, v T) []byte { return append(room, text(v)...) })
}

// ByteasOf adds a bytea[] with one value for each of a list. Bytes may come as a string, which is not copied.
func ByteasOf[T any, B []byte | string](a *Arguments, list []T, bytes func(T) B) {
	listOf(a, list, pgtype.ByteaOID, func(room []byte, v T) []byte { return append(room, bytes(v)...) })
}

// listOf writes an array: dimensions, whether there are nulls, the type of its values, their number and the first one's index, then each with
// its length before it.
func listOf[T any](a *Arguments, list []T, oid uint32, value func(room []byte, v T) []byte) {
	if len(list) == 0 {
		a.room = append(binary.BigEndian.AppendUint64(a.room, 0), 0, 0, 0, 0)
		binary.BigEndian.PutUint32(a.room[len(a.room)-4:], oid)
		a.end()
		return
	}
	for _, h := range [...]uint32{1, 0, oid, uint32(len(list)), 1} {
		a.room = binary.BigEndian.AppendUint32(a.room, h)
	}
	for _, v := range list {
		at := len(a.room)
		a.room = value(append(a.room, 0, 0, 0, 0), v)
		binary.BigEndian.PutUint32(a.room[at:], uint32(len(a.room)-at-4))
	}
	a.end()
}
