package media

import "encoding/binary"

// orientation reads how a photo is to be turned from Exif data in its TIFF form; 1, upright, where it does not say.
func orientation(tiff []byte) byte {
	if len(tiff) < 8 {
		return 1
	}
	var order binary.ByteOrder
	switch string(tiff[:4]) {
	case "II*\x00":
		order = binary.LittleEndian
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 1
	}
	at := uint64(order.Uint32(tiff[4:]))
	if at+2 > uint64(len(tiff)) {
		return 1
	}
	entries := tiff[at+2:]
	for range order.Uint16(tiff[at:]) {
		if len(entries) < 12 {
			return 1
		}
		e := entries[:12]
		entries = entries[12:]
		if order.Uint16(e) != 0x0112 {
			continue
		}
		if v := order.Uint16(e[8:]); order.Uint16(e[2:]) == 3 && order.Uint32(e[4:]) == 1 && v >= 2 && v <= 8 {
			return byte(v)
		}
		return 1
	}
	return 1
}

// onlyOrientation is Exif data in its TIFF form that says nothing else.
func onlyOrientation(v byte) []byte {
	return []byte{
		'M', 'M', 0, '*', 0, 0, 0, 8, // the first directory begins at 8
		0, 1, // one entry
		0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, v, 0, 0, // orientation, one short
		0, 0, 0, 0, // no other directory
	}
}
