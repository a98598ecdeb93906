package pds

import (
	"net"
	"net/http"
	"strings"

	"city-sync.org/citysync/internal/xrpc"
)

const getBlobPath = "/xrpc/com.atproto.sync.getBlob"

// blobsApart serves blobs alone under the name that is set for them: strangers' bytes have another origin than the pages on which people sign in.
func (s *Server) blobsApart(next http.Handler) http.Handler {
	if s.cfg.BlobHost == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.EqualFold(hostOnly(r.Host), s.cfg.BlobHost) && r.URL.Path != getBlobPath {
			xrpc.WriteError(w, xrpc.Errorf(http.StatusNotFound, xrpc.NameNotFound, "only blobs are served under this name"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostOnly(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.TrimSuffix(host, ".")
}
