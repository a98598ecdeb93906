package media

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const secret = "37.8044N 122.2712W, camera 0815"

func strip(t testing.TB, mime string, raw []byte) []byte {
	t.Helper()
	p, err := Strip(bytes.NewReader(raw), int64(len(raw)), mime)
	require.NoError(t, err)
	out, err := io.ReadAll(p.Reader())
	require.NoError(t, err)
	require.EqualValues(t, len(out), p.Size())
	return out
}

// stripped also wants that a second time changes nothing, and that the secret is gone.
func stripped(t testing.TB, mime string, raw []byte) []byte {
	t.Helper()
	require.Contains(t, string(raw), secret)
	out := strip(t, mime, raw)
	assert.NotContains(t, string(out), secret)
	assert.Equal(t, out, strip(t, mime, out), "M4")
	return out
}

func refusedAs(t testing.TB, mime string, raw []byte) {
	t.Helper()
	_, err := Strip(bytes.NewReader(raw), int64(len(raw)), mime)
	assert.ErrorIs(t, err, ErrMalformed)
}

func picture() image.Image {
	m := image.NewRGBA(image.Rect(0, 0, 40, 30))
	for x := range 40 {
		for y := range 30 {
			m.Set(x, y, color.RGBA{uint8(6 * x), uint8(8 * y), uint8(x * y), 255})
		}
	}
	return m
}

// tiff is Exif data with an orientation, beside a camera's remark.
func tiff(order binary.AppendByteOrder, orientation uint16) []byte {
	head := "MM\x00*\x00\x00\x00\x08"
	if order == binary.AppendByteOrder(binary.LittleEndian) {
		head = "II*\x00\x08\x00\x00\x00"
	}
	b := order.AppendUint16([]byte(head), 2)
	b = order.AppendUint32(order.AppendUint16(order.AppendUint16(b, 0x010e), 2), uint32(len(secret)))
	b = order.AppendUint32(b, 38)
	b = order.AppendUint32(order.AppendUint16(order.AppendUint16(b, 0x0112), 3), 1)
	b = append(order.AppendUint16(b, orientation), 0, 0)
	return append(order.AppendUint32(b, 0), secret...)
}

func segment(marker byte, body string) []byte {
	return append(append([]byte{0xff, marker}, binary.BigEndian.AppendUint16(nil, uint16(len(body)+2))...), body...)
}

// photo is a JPEG with more segments after its beginning and more bytes after its end.
func photo(t testing.TB, after string, segments ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, picture(), nil))
	raw := b.Bytes()
	return bytes.Join(append(append([][]byte{raw[:2]}, segments...), raw[2:], []byte(after)), nil)
}

func TestJPEGSaysOnlyWhatItShows(t *testing.T) {
	t.Parallel()
	jfif := segment(app0, "JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")
	icc := segment(app2, "ICC_PROFILE\x00\x01\x01profile")
	raw := photo(t, "film "+secret, jfif,
		segment(app1, exifHead+string(tiff(binary.BigEndian, 1))), segment(app1, "http://ns.adobe.com/xap/1.0/\x00<x>"+secret), icc,
		segment(app2, "MPF\x00"+secret), segment(0xed, "Photoshop 3.0\x008BIM"+secret), segment(0xe5, secret), segment(com, secret),
		segment(app0, "JFXX\x00\x10"+secret))
	assert.Equal(t, photo(t, "", jfif, icc), stripped(t, "image/jpeg", raw), "M1: all else is the photo")
	clean := photo(t, "")
	p, err := Strip(bytes.NewReader(clean), int64(len(clean)), "image/jpeg")
	require.NoError(t, err)
	assert.True(t, p.Same())
}

func TestThumbnailOfAJPEGGoes(t *testing.T) {
	t.Parallel()
	thumb := segment(app0, "JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x03\x04"+secret+"-----")
	assert.Equal(t, photo(t, "", segment(app0, "JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00")), stripped(t, "image/jpeg", photo(t, "", thumb)))
}

func TestPhotoStaysUpright(t *testing.T) {
	t.Parallel()
	for _, order := range []binary.AppendByteOrder{binary.BigEndian, binary.LittleEndian} {
		for o := range uint16(10) {
			want := byte(1)
			if o >= 2 && o <= 8 {
				want = byte(o)
			}
			exif := segment(app1, exifHead+string(tiff(order, o)))
			assert.Equal(t, want, orientation(tiff(order, o)))
			out := stripped(t, "image/jpeg", photo(t, "", exif, exif))
			if want == 1 {
				assert.Equal(t, photo(t, ""), out)
			} else {
				assert.Equal(t, photo(t, "", segment(app1, exifHead+string(onlyOrientation(want)))), out, "M3, once")
			}
			assert.Equal(t, want, orientation(onlyOrientation(want)))
		}
	}
}

// A progressive photo has tables and remarks between its scans.
func TestRemarksBetweenScansGo(t *testing.T) {
	t.Parallel()
	scan := string(segment(sos, "\x01\x01\x00\x00\x3f\x00")) + "\x12\xff\x00\x34\xff\xd0\x56"
	tables := string(segment(0xdb, "table"))
	head, end := "\xff\xd8"+tables, "\xff\xd9"
	raw := head + scan + string(segment(com, secret)) + "\xff\xff" + string(segment(0xc4, "huffman")) + scan + end
	assert.Equal(t, head+scan+string(segment(0xc4, "huffman"))+scan+end, string(stripped(t, "image/jpeg", []byte(raw))))
	cut := head + string(segment(com, secret)) + scan
	assert.Equal(t, head+scan, string(stripped(t, "image/jpeg", []byte(cut))), "the end may be missing: every viewer shows what there is")
}

func TestMalformedJPEGIsRefused(t *testing.T) {
	t.Parallel()
	whole := photo(t, "", segment(com, "remark"))
	for name, raw := range map[string][]byte{
		"empty": {}, "no photo": []byte("GIF89a"), "beginning alone": whole[:2], "in a segment": whole[:9],
		"length below two": []byte("\xff\xd8\xff\xe0\x00\x01"), "no marker": []byte("\xff\xd8abcd"), "again": []byte("\xff\xd8\xff\xd8\xff\xd9"),
		"restart outside a scan": []byte("\xff\xd8\xff\xd0\xff\xd9"), "fill alone": append([]byte("\xff\xd8"), bytes.Repeat([]byte{0xff}, 1<<20)...),
	} {
		t.Run(name, func(t *testing.T) { refusedAs(t, "image/jpeg", raw) })
	}
}

// counting sees how much is read of a file.
type counting struct {
	*bytes.Reader
	read int
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	c.read += len(b)
	return c.Reader.ReadAt(b, off)
}

// M5: files of nothing but tiny parts.
func TestWorkIsInProportionToTheFile(t *testing.T) {
	t.Parallel()
	const n = 50_000
	scan := string(segment(sos, "")) + "\x01"
	for mime, raw := range map[string]string{
		"image/jpeg":      "\xff\xd8" + strings.Repeat(scan, n) + "\xff\xd9",
		"image/png":       pngHead + strings.Repeat(string(chunk("IDAT", "")), n) + string(chunk("IEND", "")),
		"image/webp":      string(riff(strings.Repeat(part("ANMF", ""), n))),
		"video/mp4":       strings.Repeat(boxOf("mdat"), n),
		"video/quicktime": boxOf("moov", strings.Repeat(boxOf("trak"), n)),
	} {
		src := &counting{Reader: bytes.NewReader([]byte(raw))}
		p, err := Strip(src, int64(len(raw)), mime)
		require.NoError(t, err, mime)
		assert.Less(t, src.read, 3*len(raw)+window, mime)
		assert.True(t, p.Same(), mime)
	}
	many := "\xff\xd8" + strings.Repeat(string(segment(0xc4, ""))+string(segment(com, "")), maxPieces+1) + "\xff\xd9"
	refusedAs(t, "image/jpeg", []byte(many))
}

func chunk(name, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = append(append(b, name...), body...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// drawing is a PNG with more chunks after its first one.
func drawing(t testing.TB, after string, chunks ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, picture()))
	raw := b.Bytes()
	return bytes.Join(append(append([][]byte{raw[:33]}, chunks...), raw[33:], []byte(after)), nil)
}

func TestPNGSaysOnlyWhatItShows(t *testing.T) {
	t.Parallel()
	phys, icc := chunk("pHYs", "123456789"), chunk("iCCP", "name\x00\x00")
	raw := drawing(t, secret, phys, chunk("tEXt", "Comment\x00"+secret), chunk("iTXt", "XML:com.adobe.xmp"+secret), icc,
		chunk("zTXt", secret), chunk("tIME", "1234567"), chunk("eXIf", string(tiff(binary.BigEndian, 1))), chunk("prVt", secret))
	out := stripped(t, "image/png", raw)
	assert.Equal(t, drawing(t, "", phys, icc), out)
	turned := stripped(t, "image/png", drawing(t, "", chunk("eXIf", string(tiff(binary.LittleEndian, 6)))))
	assert.Equal(t, drawing(t, "", chunk("eXIf", string(onlyOrientation(6)))), turned)
	_, err := png.Decode(bytes.NewReader(turned))
	require.NoError(t, err)
}

func TestMalformedPNGIsRefused(t *testing.T) {
	t.Parallel()
	whole := drawing(t, "")
	for name, raw := range map[string][]byte{
		"head alone": whole[:8], "in a chunk": whole[:40], "no end": whole[:len(whole)-12], "a chunk nobody knows": drawing(t, "", chunk("ABCD", "")),
		"endless chunk": append(bytes.Clone(whole[:33]), "\xff\xff\xff\xffIDAT"...),
	} {
		t.Run(name, func(t *testing.T) { refusedAs(t, "image/png", raw) })
	}
}

func riff(chunks ...string) []byte {
	body := "WEBP" + strings.Join(chunks, "")
	return append(binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(len(body))), body...)
}

func part(name, body string) string {
	b := string(binary.LittleEndian.AppendUint32([]byte(name), uint32(len(body)))) + body
	if len(body)%2 != 0 {
		b += "\x00"
	}
	return b
}

func TestWebPSaysOnlyWhatItShows(t *testing.T) {
	t.Parallel()
	simple, err := base64.StdEncoding.DecodeString("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
	require.NoError(t, err)
	assert.Equal(t, simple, strip(t, "image/webp", simple))
	assert.Equal(t, simple, stripped(t, "image/webp", append(bytes.Clone(simple), secret...)), "what follows the end")

	pixels := part("VP8L", "pixel")
	flags := func(f byte) string { return part("VP8X", string([]byte{f})+"\x00\x00\x00123456") }
	for _, prefix := range []string{"", exifHead} {
		raw := riff(flags(0x1c), part("ICCP", "profile"), pixels, part("EXIF", prefix+string(tiff(binary.LittleEndian, 1))), part("XMP ", secret), part("ABCD", secret))
		assert.Equal(t, riff(flags(0x10), part("ICCP", "profile"), pixels), stripped(t, "image/webp", raw))
		raw = riff(flags(0x1c), pixels, part("XMP ", secret), part("EXIF", prefix+string(tiff(binary.BigEndian, 8))))
		assert.Equal(t, riff(flags(0x18), pixels, part("EXIF", string(onlyOrientation(8)))), stripped(t, "image/webp", raw))
	}
	noFill := riff(part("XMP ", secret+"!"), strings.TrimSuffix(pixels, "\x00"))
	assert.Equal(t, riff(pixels), stripped(t, "image/webp", noFill))
	for name, raw := range map[string][]byte{
		"head alone": simple[:12], "in a chunk": simple[:20], "longer than the file": append(simple[:4:4], append([]byte{200, 0, 0, 0}, simple[8:]...)...),
		"late VP8X": riff(pixels, flags(0)), "short VP8X": riff(part("VP8X", "12")), "endless chunk": riff("VP8L\xff\xff\xff\xff"),
	} {
		t.Run(name, func(t *testing.T) { refusedAs(t, "image/webp", raw) })
	}
}

func boxOf(name string, body ...string) string {
	b := strings.Join(body, "")
	return string(binary.BigEndian.AppendUint32(nil, uint32(8+len(b)))) + name + b
}

func freed(n int) string { return boxOf("free", strings.Repeat("\x00", n)) }

func TestFilmSaysNotWhereItWasMade(t *testing.T) {
	t.Parallel()
	film := func(user, meta, track, ext, last string) []byte {
		return []byte(boxOf("ftyp", "mp42\x00\x00\x00\x00") + ext +
			boxOf("moov", boxOf("mvhd", "head"), boxOf("trak", boxOf("tkhd", "track"), track, boxOf("mdia", "media")), user, meta) + boxOf("mdat", "samples") + last)
	}
	long := "\x00\x00\x00\x01uuid" + string(binary.BigEndian.AppendUint64(nil, uint64(16+len(secret)))) + secret
	raw := film(boxOf("udta", boxOf("\xa9xyz", secret)), boxOf("meta", secret), boxOf("udta", secret), long, "\x00\x00\x00\x00skip"+secret)
	n := len(secret)
	want := film(freed(n+8), freed(n), freed(n), strings.Replace(strings.Replace(long, "uuid", "free", 1), secret, strings.Repeat("\x00", n), 1), "\x00\x00\x00\x00free"+strings.Repeat("\x00", n))
	assert.Equal(t, want, stripped(t, "video/mp4", raw), "every sample stays where it was")
	for name, raw := range map[string]string{
		"cut short": string(raw[:30]), "box below its head": "\x00\x00\x00\x07ftyp", "long box below its head": "\x00\x00\x00\x01ftyp\x00\x00\x00\x00\x00\x00\x00\x0f",
		"endless": "\x00\x00\x00\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff", "loose bytes": boxOf("ftyp", "mp42") + "abc",
		"child longer than its box": boxOf("moov", "\x00\x00\x00\xffmvhd"),
	} {
		t.Run(name, func(t *testing.T) { refusedAs(t, "video/mp4", []byte(raw)) })
	}
}

// heic is a photo with a picture, Exif data and XMP, the last of which lies in the box of small items.
func heic(exif, xmp string, at uint32) []byte {
	item := func(id byte, kind, more string) string {
		return boxOf("infe", "\x02\x00\x00\x00\x00"+string([]byte{id})+"\x00\x00"+kind+"\x00"+more)
	}
	u32 := func(v int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(v))) }
	loc := func(id, method byte, off, n int) string {
		return "\x00" + string([]byte{id}) + "\x00" + string([]byte{method}) + "\x00\x00" + "\x00\x01" + u32(off) + u32(n)
	}
	pixels := "pixels"
	iinf := boxOf("iinf", "\x00\x00\x00\x00\x00\x03", item(1, "hvc1", ""), item(2, "Exif", ""), item(3, "mime", "application/rdf+xml\x00"))
	iloc := boxOf("iloc", "\x01\x00\x00\x00\x44\x00\x00\x03", loc(1, 0, int(at), len(pixels)), loc(2, 0, int(at)+len(pixels), len(exif)), loc(3, 1, 0, len(xmp)))
	meta := boxOf("meta", "\x00\x00\x00\x00", boxOf("hdlr", "handler"), iinf, iloc, boxOf("idat", xmp))
	head := boxOf("ftyp", "heic\x00\x00\x00\x00") + meta
	if at == 0 {
		return heic(exif, xmp, uint32(len(head)+8))
	}
	return []byte(head + boxOf("mdat", pixels, exif))
}

func TestHEICLosesItsExifAndXMPInPlace(t *testing.T) {
	t.Parallel()
	exif := "\x00\x00\x00\x06" + exifHead + string(tiff(binary.BigEndian, 6))
	raw := heic(exif, "<x>"+secret, 0)
	want := heic(string(emptyExif)+strings.Repeat("\x00", len(exif)-len(emptyExif)), strings.Repeat("\x00", 3+len(secret)), 0)
	assert.Equal(t, want, stripped(t, "image/heic", raw))
	outside := bytes.Replace(raw, []byte("\x44\x00\x00\x03"), []byte("\x44\x00\xff\xff"), 1) // more items than there are
	refusedAs(t, "image/heic", outside)
	nowhere := heic(strings.Repeat("e", 40), secret, 0)
	at := bytes.Index(nowhere, []byte("\x00\x02\x00\x00\x00\x00\x00\x01")) + 8
	binary.BigEndian.PutUint32(nowhere[at:], 1<<31)
	refusedAs(t, "image/heic", nowhere)
	// Four billion parts that take no room in the table.
	bomb := boxOf("ftyp", "heic\x00\x00\x00\x00") + boxOf("meta", "\x00\x00\x00\x00", boxOf("iinf", "\x00\x00\x00\x00\x00\x01", boxOf("infe", "\x02\x00\x00\x00\x00\x02\x00\x00Exif\x00")),
		boxOf("iloc", "\x00\x00\x00\x00\x00\x00\xff\xff", strings.Repeat("\x00\x02\x00\x00\xff\xff", 1000)))
	refusedAs(t, "image/heic", []byte(bomb))
}

func TestOtherKindsAreLeftAlone(t *testing.T) {
	t.Parallel()
	p, err := Strip(strings.NewReader("text"), 4, "text/plain")
	require.NoError(t, err)
	assert.Nil(t, p)
}

func TestBytesTellTheirKind(t *testing.T) {
	t.Parallel()
	ftyp := func(brands ...string) string {
		return boxOf("ftyp", brands[0]+"\x00\x00\x00\x00", strings.Join(brands[1:], ""))
	}
	ogg := func(packet string) string { return "OggS" + strings.Repeat("\x00", 22) + "\x01\x1e" + packet }
	for name, tc := range map[string]struct{ head, declared, want string }{
		"jpeg":                   {"\xff\xd8\xff\xe0", "text/html", "image/jpeg"},
		"png":                    {pngHead, "", "image/png"},
		"gif":                    {"GIF89a", "image/png", "image/gif"},
		"webp":                   {"RIFF\x00\x00\x00\x00WEBPVP8 ", "", "image/webp"},
		"avif":                   {ftyp("avif", "mif1"), "", "image/avif"},
		"avif behind a general":  {ftyp("mif1", "avif", "miaf"), "", "image/avif"},
		"heic":                   {ftyp("heic", "mif1"), "image/jpeg", "image/heic"},
		"heic behind a general":  {ftyp("mif1", "mif1", "heic"), "", "image/heic"},
		"heif":                   {ftyp("mif1", "mif1"), "", "image/heif"},
		"jpeg xl":                {"\xff\x0a", "", "image/jxl"},
		"tiff":                   {"II*\x00", "", "image/tiff"},
		"bmp":                    {"BM\x10\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00", "", "image/bmp"},
		"a text on BMW":          {"BMW makes cars", "text/plain", "text/plain"},
		"svg":                    {"<?xml version='1.0'?>\n<!-- a --><svg xmlns='x'>", "image/png", "image/svg+xml"},
		"mp4":                    {ftyp("isom", "mp42"), "", "video/mp4"},
		"mp4 of another brand":   {ftyp("what"), "", "video/mp4"},
		"quicktime":              {ftyp("qt  "), "video/mp4", "video/quicktime"},
		"m4a":                    {ftyp("M4A "), "", "audio/mp4"},
		"webm":                   {"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", "", "video/webm"},
		"matroska":               {"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", "", "video/x-matroska"},
		"mp3 with its title":     {"ID3\x04\x00\x00", "", "audio/mpeg"},
		"mp3":                    {"\xff\xfb\x90\x64", "", "audio/mpeg"},
		"no mp3":                 {"\xff\xfb\xf0\x64", "audio/mpeg", anyBytes},
		"a text on ID3":          {"ID3 is a format", "text/plain", "text/plain"},
		"text of 16 bits":        {"\xff\xfeh\x00i\x00", "", "text/plain"},
		"aac":                    {"\xff\xf1\x50\x80", "", "audio/aac"},
		"vorbis":                 {ogg("\x01vorbis"), "", "audio/ogg"},
		"opus":                   {ogg("OpusHead"), "audio/opus", "audio/ogg"},
		"theora":                 {ogg("\x80theora"), "", "video/ogg"},
		"flac":                   {"fLaC", "", "audio/flac"},
		"wav":                    {"RIFF\x00\x00\x00\x00WAVE", "", "audio/wav"},
		"avi":                    {"RIFF\x00\x00\x00\x00AVI ", "", "video/x-msvideo"},
		"pdf":                    {"%PDF-1.7", "text/plain", "application/pdf"},
		"captions":               {"WEBVTT\n", "text/plain", "text/vtt"},
		"zip":                    {"PK\x03\x04", "", "application/zip"},
		"a document in a zip":    {"PK\x03\x04", "application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.text"},
		"zip called a picture":   {"PK\x03\x04", "image/png", "application/zip"},
		"zip called a PDF":       {"PK\x03\x04", "application/pdf", "application/zip"},
		"text":                   {"words", "", "text/plain"},
		"markdown with a remark": {"<!-- a --> # title", "text/markdown", "text/markdown"},
		"page called a picture":  {"<!DOCTYPE html><script>", "image/png", "text/html"},
		"page called json":       {"<!DOCTYPE html><script>", "application/json", "text/html"},
		"json":                   {`{"a":1}`, "application/json; charset=utf-8", "application/json"},
		"words called a picture": {"words", "image/jpeg", anyBytes},
		"bytes called a film":    {"\x00\x01\x02\x03", "video/mp4", anyBytes},
		"bytes of a kind":        {"\x00\x01\x02\x03", "application/x-thing", "application/x-thing"},
		"bytes":                  {"\x00\x01\x02\x03", "", anyBytes},
		"nonsense declared":      {"\x00\x01", "a/b/c; d", anyBytes},
		"nothing":                {"", "", "text/plain"},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, tc.want, Type([]byte(tc.head), tc.declared)) })
	}
}
