package mesh

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestPermit: what the admin certificate permits and we never do is refused by kind, and so is whatever is new.
func TestPermit(t *testing.T) {
	const prefix = "cilium/state/meshpdb/v1/c1/"
	put := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
	}
	remove := func(key, end string) *pb.DeleteRangeRequest {
		return &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
	}
	nested := func(op *pb.RequestOp) *pb.TxnRequest {
		inner := &pb.TxnRequest{Failure: []*pb.RequestOp{op}}
		return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: inner}}}}
	}
	for name, c := range map[string]struct {
		request        any
		own, elsewhere bool
	}{
		"read":                       {&pb.RangeRequest{Key: []byte("x")}, true, true},
		"read in a transaction":      {&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{}}}}}, true, true},
		"put":                        {&pb.PutRequest{Key: []byte(prefix + "marker")}, true, false},
		"put of the prefix itself":   {&pb.PutRequest{Key: []byte(prefix)}, false, false},
		"put elsewhere":              {&pb.PutRequest{Key: []byte("cilium/state/services/v1/c1/x/y")}, false, false},
		"put under a peer's prefix":  {&pb.PutRequest{Key: []byte("cilium/state/meshpdb/v1/c10/marker")}, false, false},
		"put without a key":          {&pb.PutRequest{}, false, false},
		"delete":                     {remove(prefix+"marker", ""), true, false},
		"delete of a range":          {remove(prefix+"a", prefix+"b"), false, false},
		"delete of all that follows": {remove(prefix+"a", "\x00"), false, false},
		"delete of all":              {remove("\x00", "\x00"), false, false},
		"transaction":                {nested(put(prefix + "marker")), true, false},
		"transaction elsewhere":      {nested(put("x")), false, false},
		"part that is nothing":       {&pb.TxnRequest{Failure: []*pb.RequestOp{{}}}, false, false},
		"lease":                      {&pb.LeaseGrantRequest{TTL: 15}, true, false},
		"end of a lease":             {&pb.LeaseRevokeRequest{}, false, false},
		"compaction":                 {&pb.CompactionRequest{}, false, false},
		"user":                       {&pb.AuthUserAddRequest{}, false, false},
		"role":                       {&pb.AuthRoleGrantPermissionRequest{}, false, false},
		"no authentication":          {&pb.AuthDisableRequest{}, false, false},
		"member":                     {&pb.MemberRemoveRequest{}, false, false},
		"defragmentation":            {&pb.DefragmentRequest{}, false, false},
		"nothing":                    {nil, false, false},
	} {
		if err := (screen{writable: prefix}).permit(c.request); (err == nil) != c.own {
			t.Errorf("%s, own: %v", name, err)
		}
		if err := (screen{}).permit(c.request); (err == nil) != c.elsewhere {
			t.Errorf("%s, a peer's: %v", name, err)
		}
	}
}

// TestOnlyDialMakesClients: a client that is made anywhere else would not be screened.
func TestOnlyDialMakesClients(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]int{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, source, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			f, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && makesClients(s) {
					made[f.Name.Name]++
				}
				return true
			})
		}
	}
	if len(made) != 1 || made["dial"] != 1 {
		t.Errorf("clients are made by %v, want dial alone: it screens them", made)
	}
}

// makesClients: what in etcd's client and gRPC leads to a connection.
func makesClients(s *ast.SelectorExpr) bool {
	from, ok := s.X.(*ast.Ident)
	if !ok {
		return false
	}
	switch from.Name {
	case "clientv3":
		return s.Sel.Name == "New" || strings.HasPrefix(s.Sel.Name, "NewFromURL") || s.Sel.Name == "NewCtxClient"
	case "grpc":
		return s.Sel.Name == "NewClient" || s.Sel.Name == "Dial" || s.Sel.Name == "DialContext"
	case "pb":
		return strings.HasPrefix(s.Sel.Name, "New") && strings.HasSuffix(s.Sel.Name, "Client")
	}
	return false
}
