package ledger

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/jackc/pgx/v5/pgtype"
)

// many is a bytea[] of a batch. The writer's connection writes it in one piece: pgx asks each value for its type, and lets the buffer
// grow by doubling up to the size of a batch.
type many [][]byte

type manyCodec struct{ pgtype.Codec }

// PlanEncode implements pgtype.Codec.
func (c manyCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(many); ok && format == pgtype.BinaryFormatCode {
		return manyPlan{}
	}
	return c.Codec.PlanEncode(m, oid, format, value)
}

// registerMany teaches a connection's types to write a many.
func registerMany(m *pgtype.Map) {
	usual, ok := m.TypeForOID(pgtype.ByteaArrayOID)
	if !ok {
		return // a many is then written as any other list
	}
	m.RegisterType(&pgtype.Type{Name: usual.Name, OID: usual.OID, Codec: manyCodec{usual.Codec}})
}

type manyPlan struct{}

// Encode implements pgtype.EncodePlan: dimensions, whether there are nulls, the type, length and lower bound, then each value.
func (manyPlan) Encode(value any, buf []byte) ([]byte, error) {
	list := value.(many) //nolint:forcetypeassert // it was planned for
	if list == nil {
		return nil, nil
	}
	size, nulls := 5*4+4*len(list), uint32(0)
	for _, b := range list {
		size += len(b)
		if b == nil {
			nulls = 1
		}
	}
	buf = slices.Grow(buf, size)
	dimensions := uint32(1)
	if len(list) == 0 {
		dimensions = 0
	}
	buf = binary.BigEndian.AppendUint32(buf, dimensions)
	buf = binary.BigEndian.AppendUint32(buf, nulls)
	buf = binary.BigEndian.AppendUint32(buf, pgtype.ByteaOID)
	if len(list) == 0 {
		return buf, nil
	}
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(list)))
	buf = binary.BigEndian.AppendUint32(buf, 1)
	for _, b := range list {
		if b == nil {
			buf = binary.BigEndian.AppendUint32(buf, math.MaxUint32)
			continue
		}
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(b)))
		buf = append(buf, b...)
	}
	return buf, nil
}
