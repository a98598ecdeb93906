package media

import (
	"bytes"
	"encoding/binary"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// HeadSize is how much of a file Type looks at.
const HeadSize = 4 << 10

const anyBytes = "application/octet-stream"

// Type is what a file's first bytes show it to be. Where they show nothing, it is what its sender calls it, unless that is a kind that
// shows: a page is no picture for being called one.
func Type(head []byte, declared string) string {
	word, _, err := mime.ParseMediaType(declared)
	if err != nil || len(word) > 255 || !strings.Contains(word, "/") {
		word = anyBytes
	}
	seen := magic(head)
	switch {
	case seen == "application/zip" || seen == "application/gzip": // what holds files is named after what it holds
		if strings.HasPrefix(word, "application/") && word != anyBytes && !shown(word) {
			return word
		}
		return seen
	case seen != "":
		return seen
	}
	seen = text(head)
	switch {
	case seen == "image/svg+xml":
		return seen
	case strings.HasPrefix(word, "text/"), strings.HasSuffix(word, "+xml"), strings.HasSuffix(word, "/xml"):
		if seen != "" {
			return word
		}
	case seen == "text/html" || seen == "text/xml":
		return seen
	}
	switch {
	case shown(word):
		return anyBytes
	case word == anyBytes && seen == "text/plain":
		return seen
	}
	return word
}

// signature is a run of bytes at a place that a kind of file has.
type signature struct {
	at   int
	has  string
	mime string
}

var signatures = []signature{
	{0, "\xff\xd8\xff", "image/jpeg"},
	{0, pngHead, "image/png"},
	{0, "GIF87a", "image/gif"},
	{0, "GIF89a", "image/gif"},
	{8, "WEBP", "image/webp"}, // and RIFF, below
	{0, "\xff\x0a", "image/jxl"},
	{0, "\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"},
	{0, "II*\x00", "image/tiff"},
	{0, "MM\x00*", "image/tiff"},
	{0, "%PDF-", "application/pdf"},
	{0, "ID3\x02", "audio/mpeg"},
	{0, "ID3\x03", "audio/mpeg"},
	{0, "ID3\x04", "audio/mpeg"},
	{0, "fLaC", "audio/flac"},
	{0, "\x1f\x8b\x08", "application/gzip"},
	{0, "PK\x03\x04", "application/zip"},
	{0, "PK\x05\x06", "application/zip"},
	{0, "wOFF", "font/woff"},
	{0, "wOF2", "font/woff2"},
	{0, "WEBVTT", "text/vtt"},
	{0, "MThd\x00\x00\x00\x06", "audio/midi"},
}

// brands are the kinds of files of boxes, by the name that the first one gives.
var brands = map[string]string{
	"avif": "image/avif", "avis": "image/avif",
	"heic": "image/heic", "heix": "image/heic", "heim": "image/heic", "heis": "image/heic", "hevc": "image/heic-sequence", "hevx": "image/heic-sequence",
	"mif1": "image/heif", "msf1": "image/heif-sequence", "qt  ": "video/quicktime", "M4A ": "audio/mp4", "M4B ": "audio/mp4", "M4P ": "audio/mp4",
	"3gp4": "video/3gpp", "3gp5": "video/3gpp", "3gp6": "video/3gpp", "3gp7": "video/3gpp", "crx ": "image/x-canon-cr3",
}

// others are kinds that magic tells by more than a run of bytes.
var others = []string{"audio/wav", "video/x-msvideo", "video/webm", "video/x-matroska", "audio/ogg", "video/ogg", "audio/aac", "image/bmp", "video/mp4"}

// shown says that files of a kind show it, so that one which does not is not of it.
func shown(kind string) bool {
	if slices.Contains(others, kind) {
		return true
	}
	for _, s := range signatures {
		if s.mime == kind {
			return true
		}
	}
	for _, b := range brands {
		if b == kind {
			return true
		}
	}
	return false
}

func magic(head []byte) string {
	has := func(at int, s string) bool { return len(head) >= at+len(s) && string(head[at:at+len(s)]) == s }
	for _, s := range signatures {
		if has(s.at, s.has) && (s.mime != "image/webp" || has(0, "RIFF")) {
			return s.mime
		}
	}
	switch {
	case has(0, "RIFF") && has(8, "WAVE"):
		return "audio/wav"
	case has(0, "RIFF") && has(8, "AVI "):
		return "video/x-msvideo"
	case has(4, "ftyp"):
		return branded(head)
	case has(0, "\x1a\x45\xdf\xa3"):
		return matroska(head)
	case has(0, "OggS"):
		return ogg(head)
	case has(0, "BM") && len(head) >= 14 && binary.LittleEndian.Uint32(head[6:]) == 0:
		return "image/bmp"
	}
	return frames(head)
}

// branded tells the films and pictures that are made of boxes. A brand that only says "some pictures" leaves it to the next ones.
func branded(head []byte) string {
	size := int(min(uint64(binary.BigEndian.Uint32(head)), uint64(len(head))))
	kind := ""
	for at := 8; at+4 <= size; at += 4 {
		if at == 12 {
			continue // a version
		}
		k, known := brands[string(head[at:at+4])]
		switch {
		case at == 8 && known && k != "image/heif" && k != "image/heif-sequence":
			return k
		case at == 8:
			kind = k
		case kind != "" && known && strings.HasPrefix(k, "image/") && !strings.HasPrefix(k, "image/heif"):
			return k
		}
	}
	if kind == "" {
		return "video/mp4"
	}
	return kind
}

func matroska(head []byte) string {
	if at := bytes.Index(head, []byte("\x42\x82")); at >= 0 && at < 64 && bytes.HasPrefix(head[min(at+3, len(head)):], []byte("webm")) {
		return "video/webm"
	}
	return "video/x-matroska"
}

// ogg looks at the first packet, which names its codec.
func ogg(head []byte) string {
	if len(head) < 27 || len(head) < 27+int(head[26]) {
		return "audio/ogg"
	}
	packet := head[27+int(head[26]):]
	if bytes.HasPrefix(packet, []byte("\x80theora")) || bytes.HasPrefix(packet, []byte("\x01video")) {
		return "video/ogg"
	}
	return "audio/ogg"
}

// frames tells sound that begins with its first frame. Two bytes of sync alone would be a guess, so the fields after them must make sense too.
func frames(head []byte) string {
	if len(head) < 4 || head[0] != 0xff || head[1]&0xe0 != 0xe0 {
		return ""
	}
	version, layer := head[1]>>3&3, head[1]>>1&3
	switch {
	case layer == 0 && head[1]&0xf0 == 0xf0 && head[2]>>2&15 < 13:
		return "audio/aac"
	case layer == 1 && version != 1 && head[2]>>4 != 0 && head[2]>>4 != 15 && head[2]>>2&3 != 3:
		return "audio/mpeg"
	}
	return ""
}

// text tells writing from bytes, and what is drawn or laid out by it; empty for bytes.
func text(head []byte) string {
	seen, _, err := mime.ParseMediaType(http.DetectContentType(head[:min(len(head), 512)]))
	if err != nil || !strings.HasPrefix(seen, "text/") {
		return ""
	}
	lower := bytes.ToLower(bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\ufeff")), " \t\r\n"))
	if bytes.HasPrefix(lower, []byte("<svg")) || bytes.HasPrefix(lower, []byte("<?xml")) && bytes.Contains(lower, []byte("<svg")) {
		return "image/svg+xml"
	}
	return seen
}
