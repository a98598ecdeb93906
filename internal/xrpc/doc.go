// Package xrpc is the one place where HTTP meets the methods of a service: routing by NSID, parameters, bodies,
// errors, service authentication, and the guarded client for every address that comes from outside.
//
// Invariants:
//
//	X1. A stranger's bytes are bounded before they are parsed: bodies, parameters, tokens, answers.
//	X2. Only an *Error reaches the caller with its text. Any other error, and any panic, is answered
//	    500 InternalServerError, and its text goes to the log beside the request id.
//	X3. A service token is accepted once, for one method, for one audience, within 150 seconds; replay is
//	    recorded after the signature was checked, so that nobody can use up another's token id.
//	X4. The guarded client connects to public unicast addresses on port 443 only, judged at dial time on the
//	    address itself; loopback is reachable only where the operator said so.
package xrpc
