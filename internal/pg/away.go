package pg

import (
	"errors"
	"io"
	"net"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Away tells an error of a server that is not there, is starting or stopping, or went away in the middle, from an error
// of the work itself. The same work may succeed later; whether it was done, nobody knows.
func Away(err error) bool {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		// 57P: the server stops or starts; 08: the connection broke; 53300: no connection is left.
		return strings.HasPrefix(refused.Code, "57P") || strings.HasPrefix(refused.Code, "08") || refused.Code == "53300"
	}
	var elsewhere *url.Error // of an HTTP call, never of ours
	if errors.As(err, &elsewhere) {
		return false
	}
	var dial *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &dial) || errors.As(err, &network) || pgconn.SafeToRetry(err) || errors.Is(err, io.ErrUnexpectedEOF)
}
