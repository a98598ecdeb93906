// Package qrsvg draws QR codes into pages that run no script and load no picture.
package qrsvg

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"

	"rsc.io/qr"
)

// Quiet is the white border that readers of QR codes need, in modules.
const Quiet = 4

// Draw gives the code as one SVG path: each run of dark modules a rectangle. It is black on white on every screen, since readers need that.
func Draw(code *qr.Code, alt string) template.HTML {
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; {
			if !code.Black(x, y) {
				x++
				continue
			}
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", from+Quiet, y+Quiet, x-from, x-from)
		}
	}
	side := code.Size + 2*Quiet
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg class="qr" role="img" aria-label="%s" viewBox="0 0 %d %d" shape-rendering="crispEdges"><rect width="%d" height="%d" fill="#fff"/><path fill="#000" d="%s"/></svg>`,
		template.HTMLEscapeString(alt), side, side, side, side, &path)
	return template.HTML(out.String()) // numbers of ours, and an escaped phrase
}
