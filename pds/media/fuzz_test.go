package media

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
)

// fuzzStrip gives a parser anything: it ends, refuses or makes a file no longer than the original and a few bytes, which a second time stays as it is.
func fuzzStrip(f *testing.F, mime string, seeds ...[]byte) {
	f.Helper()
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := Strip(bytes.NewReader(raw), int64(len(raw)), mime)
		if err != nil {
			return
		}
		out, err := io.ReadAll(p.Reader())
		if err != nil || int64(len(out)) != p.Size() {
			t.Fatalf("%d bytes of %d: %v", len(out), p.Size(), err)
		}
		if len(out) > len(raw)+64 {
			t.Fatalf("%d bytes became %d", len(raw), len(out))
		}
		if again := strip(t, mime, out); !bytes.Equal(again, out) {
			t.Fatalf("a second time it is another file")
		}
	})
}

func FuzzJPEG(f *testing.F) {
	exif := segment(app1, exifHead+string(tiff(binary.LittleEndian, 6)))
	fuzzStrip(f, "image/jpeg", photo(f, "more"), photo(f, "", exif), photo(f, "", segment(com, secret), segment(app0, "JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x01\x01abc")))
}

func FuzzPNG(f *testing.F) {
	fuzzStrip(f, "image/png", drawing(f, "more"), drawing(f, "", chunk("eXIf", string(tiff(binary.BigEndian, 3))), chunk("tEXt", secret)))
}

func FuzzWebP(f *testing.F) {
	flags := part("VP8X", "\x1c\x00\x00\x00123456")
	fuzzStrip(f, "image/webp", riff(part("VP8L", "pixel")), riff(flags, part("VP8L", "pixel"), part("EXIF", string(tiff(binary.BigEndian, 8))), part("XMP ", secret)))
}

func FuzzBoxes(f *testing.F) {
	film := boxOf("ftyp", "mp42\x00\x00\x00\x00") + boxOf("moov", boxOf("mvhd", "head"), boxOf("udta", secret)) + boxOf("mdat", "samples")
	fuzzStrip(f, "video/mp4", []byte(film), heic(strings.Repeat("e", 40), secret, 0))
}

// Whatever the bytes and the sender say, the kind is one word of a type, and bytes that are shown to be one kind are never called another.
func FuzzType(f *testing.F) {
	f.Add([]byte("\xff\xd8\xff"), "text/html")
	f.Add([]byte("<svg"), "a/b; c=d")
	f.Fuzz(func(t *testing.T, head []byte, declared string) {
		kind := Type(head, declared)
		if strings.Count(kind, "/") != 1 || len(kind) > 255 || strings.ContainsAny(kind, " ;,\r\n") {
			t.Fatalf("kind %q", kind)
		}
		if slices.Contains([]string{"image/jpeg", "image/png", "video/mp4"}, kind) && magic(head) != kind {
			t.Fatalf("%q is called %s", head, kind)
		}
	})
}
