package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/meshpdb/meshpdb/e2e/sandbox"
	"github.com/meshpdb/meshpdb/e2e/scenario"
)

// How soon an answer is seen: on the observer that gave it, and through Relay, which sorts for a second.
const (
	shownTime   = 100 * time.Millisecond
	relayedTime = 4 * time.Second
)

// hubbleMesh is the mesh with observers, and Relay in the first cluster.
type hubbleMesh struct {
	cli, certs string
	// observers of all controllers by "cluster/controller".
	observers map[string]string
	exports   []string
	mux       *sandbox.Part
	relay     string
}

// TestHubble looks at decisions with Hubble's own programs.
func TestHubble(t *testing.T) {
	h := showDecisions(t)
	w := budgeted(t, "hubble", 2, maxUnavailable(1))
	c1, c2 := mesh.clusters[0], mesh.clusters[1]
	if _, err := evict(t, w, c1); err != nil {
		t.Fatal(err)
	}
	if err := w.SetMaxUnavailable(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	victim := firstPod(t, w, c2)
	pod := victim.Name
	eventually(t, 30*time.Second, "the bound of 0 holds", func() error {
		if err := c2.Client.PolicyV1().Evictions(w.Namespace).Evict(t.Context(), dryEviction(w.Namespace, pod)); err == nil {
			return fmt.Errorf("it is allowed")
		}
		return nil
	})
	t.Run("at once", func(t *testing.T) { wantShownAtOnce(t, h, w, c2, pod) })
	if out, err := kubectlDelete(t, c1, "-n hubble deployment db --dry-run=server"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	autoscaler := *c2.Config
	autoscaler.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:kube-system:cluster-autoscaler", Groups: []string{"system:masters"}}
	client, err := kubernetes.NewForConfig(&autoscaler)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, client.PolicyV1().Evictions(w.Namespace).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: pod}}), 0, "needs 6")
	t.Run("filters", func(t *testing.T) { wantFilters(t, h, victim) })
	t.Run("export", func(t *testing.T) { wantExport(t, h, pod) })
	t.Run("history", func(t *testing.T) { wantHistory(t, h, pod) })
	t.Run("without peer service", func(t *testing.T) { wantRelayWithoutPeers(t, h, w, c2, pod) })
}

func dryEviction(namespace, pod string) *policyv1.Eviction {
	return &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}, DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}},
	}
}

// showDecisions restarts all controllers with observers and exports, and starts Relay, fed by meshpdb-hubble-peers.
func showDecisions(t *testing.T) *hubbleMesh {
	t.Helper()
	cli, relay, peers, err := mesh.Binaries.Hubble(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(peers)) })
	t.Logf("resident memory of controllers without observers: %v", resident(t))
	h := &hubbleMesh{cli: cli, certs: filepath.Join(dir, "c1"), observers: map[string]string{}}
	var group errgroup.Group
	var places []string
	for _, c := range mesh.Clusters {
		certs := filepath.Join(dir, c.Name)
		addresses, err := c.FreeAddresses(len(c.Controllers))
		if err := firstError(err, c.HubbleCertificate(certs)); err != nil {
			t.Fatal(err)
		}
		for i, p := range c.Controllers {
			export := filepath.Join(dir, c.Name+"-"+p.Name+".json")
			h.observers[c.Name+"/"+p.Name], h.exports = addresses[i], append(h.exports, export)
			places = append(places, c.Name+"="+addresses[i])
			group.Go(func() error {
				return p.Restart(t.Context(), "--hubble-listen-address="+addresses[i], "--hubble-export-file-path="+export,
					"--hubble-tls-cert-file="+certs+"/tls.crt", "--hubble-tls-key-file="+certs+"/tls.key", "--hubble-tls-client-ca-files="+certs+"/ca.crt")
			})
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if err := p.Restart(ctx); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	c1 := mesh.Clusters[0]
	addresses, err := c1.FreeAddresses(4)
	if err != nil {
		t.Fatal(err)
	}
	h.relay = addresses[2]
	h.mux, err = c1.Run(t.Context(), sandbox.Program{
		Name: "hubble-peers", Path: peers, Address: addresses[0],
		Args: []string{
			"--cluster-name=c1", "--listen-address=" + addresses[0], "--health-listen-address=" + addresses[1], "--interval=1s", "--observers=" + strings.Join(places, ","),
			"--tls-cert-file=" + h.certs + "/tls.crt", "--tls-key-file=" + h.certs + "/tls.key", "--tls-ca-files=" + h.certs + "/ca.crt",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	running, err := c1.Run(t.Context(), sandbox.Program{
		Name: "hubble-relay", Path: relay, Address: h.relay, Env: []string{"RELAY_PEER-SERVICE=" + addresses[0]},
		Args: []string{
			"serve", "--cluster-name=c1", "--gops=false", "--disable-server-tls", "--retry-timeout=1s", "--listen-address=" + h.relay, "--health-listen-address=" + addresses[3],
			"--tls-hubble-client-cert-file=" + h.certs + "/tls.crt", "--tls-hubble-client-key-file=" + h.certs + "/tls.key", "--tls-hubble-server-ca-files=" + h.certs + "/ca.crt",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		running.Kill()
		h.mux.Kill()
	})
	eventually(t, time.Minute, "Relay knows all observers", h.connected)
	t.Logf("with observers, right after their start: %v", resident(t))
	return h
}

// resident is the resident memory of all controllers.
func resident(t *testing.T) (all []string) {
	t.Helper()
	for _, c := range mesh.Clusters {
		for _, p := range c.Controllers {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
			if err != nil {
				t.Fatal(err)
			}
			for l := range strings.Lines(string(status)) {
				if size, ok := strings.CutPrefix(l, "VmRSS:"); ok {
					all = append(all, strings.TrimSpace(size))
				}
			}
		}
	}
	return all
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// connected is nil when Relay is healthy and connected to all observers.
func (h *hubbleMesh) connected() error {
	out, err := exec.Command(h.cli, "status", "--server", h.relay).CombinedOutput()
	if want := fmt.Sprintf("Connected Nodes: %[1]d/%[1]d", len(h.observers)); err != nil || !strings.Contains(string(out), want) {
		return fmt.Errorf("hubble status: %w: %s", err, out)
	}
	return nil
}

// observe is hubble observe with the flags of how to reach a server.
func (h *hubbleMesh) observe(ctx context.Context, node string, args ...string) *exec.Cmd {
	all := append([]string{"observe"}, args...)
	if node == "" {
		all = append(all, "--server", h.relay)
	} else {
		cluster, _, _ := strings.Cut(node, "/")
		all = append(all, "--server", "tls://"+h.observers[node], "--tls-server-name", "meshpdb."+cluster+".hubble-grpc.cilium.io",
			"--tls-ca-cert-files", h.certs+"/ca.crt", "--tls-client-cert-file", h.certs+"/tls.crt", "--tls-client-key-file", h.certs+"/tls.key")
	}
	return exec.CommandContext(ctx, h.cli, all...)
}

// line is a flow as hubble observe -o json writes it, and when.
type line struct {
	Flow struct {
		UUID    string `json:"uuid"`
		Verdict string `json:"verdict"`
		Node    string `json:"node_name"`
		Summary string `json:"Summary"`
	} `json:"flow"`
	at time.Time
}

// follow reports what hubble observe --follow writes, until the test ends.
func (h *hubbleMesh) follow(t *testing.T, node string) <-chan line {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.observe(ctx, node, "--follow", "-o", "json", "--verdict", "DROPPED")
	out, err := cmd.StdoutPipe()
	if err := firstError(err, cmd.Start()); err != nil {
		cancel()
		t.Fatal(err)
	}
	lines := make(chan line, 1000)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			l := line{at: time.Now()}
			if json.Unmarshal(scanner.Bytes(), &l) == nil {
				lines <- l
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return lines
}

// next waits for a line of any of the followers, and returns nil if there is none in time.
func next(timeout time.Duration, a, b <-chan line) *line {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case l := <-a:
		return &l
	case l := <-b:
		return &l
	case <-timer.C:
		return nil
	}
}

// wantShownAtOnce evicts until followers have begun to see it, and then measures.
func wantShownAtOnce(t *testing.T, h *hubbleMesh, w *scenario.Workload, c *scenario.Cluster, pod string) {
	first, second := h.follow(t, "c2/meshpdb-controller-1"), h.follow(t, "c2/meshpdb-controller-2")
	relayed := h.follow(t, "")
	refused := func() time.Time {
		err := c.Evict(t.Context(), w.Namespace, pod)
		answered := time.Now()
		wantRefusal(t, err, 0, "needs 6")
		return answered
	}
	drain := func(followers ...<-chan line) {
		for _, f := range followers {
			for next(time.Second/2, f, nil) != nil {
			}
		}
	}
	eventually(t, 30*time.Second, "followers see refusals", func() error {
		refused()
		if next(time.Second, first, second) == nil || next(3*time.Second, relayed, nil) == nil {
			return fmt.Errorf("none is seen")
		}
		return nil
	})
	drain(first, second, relayed)
	best, slowest := time.Hour, time.Duration(0)
	for range 5 {
		answered := refused()
		direct := next(5*time.Second, first, second)
		through := next(relayedTime, relayed, nil)
		if direct == nil || through == nil {
			t.Fatalf("seen on the observer: %v, through Relay: %v", direct, through)
		}
		if !strings.Contains(direct.Flow.Summary, "budget hubble/db needs 6") || !strings.HasPrefix(direct.Flow.Node, "c2/meshpdb-controller-") || through.Flow.UUID != direct.Flow.UUID {
			t.Errorf("shown as %+v, and through Relay as %+v", direct, through)
		}
		best, slowest = min(best, direct.at.Sub(answered)), max(slowest, through.at.Sub(answered))
	}
	t.Logf("seen %s after the answer at best; through Relay after %s at worst", best, slowest)
	// The machine has other things to do; a display that waits for the next decision or a tick would never be in time.
	if best > shownTime {
		t.Errorf("it was seen %s after the answer at best", best)
	}
}

// wantFilters checks what each filter finds and leaves out.
func wantFilters(t *testing.T, h *hubbleMesh, victim corev1.Pod) {
	pod := victim.Name
	last := h.last(t, "--verdict", "DROPPED", "--from-workload", "User/admin")
	for _, c := range []struct{ args, has, hasNot string }{
		{"--verdict DROPPED", "DROPPED", "FORWARDED"},
		{"--verdict FORWARDED", "FORWARDED", "DROPPED"},
		{"--verdict AUDIT", "deleting deployment db takes", "evicting"},
		{"--not --verdict DROPPED", "FORWARDED", "DROPPED"},
		{"-n hubble", "hubble/" + pod, ""},
		{"-n elsewhere", "", "->"},
		{"--to-namespace hubble", "hubble/" + pod, ""},
		{"--pod hubble/db --verdict DROPPED", "hubble/" + pod, "FORWARDED"},
		{"--to-pod hubble/" + pod, "DROPPED", "FORWARDED"},
		{"--from-pod hubble/" + pod, "", "->"},
		{"-l meshpdb:budget=db", "hubble/" + pod, ""},
		{"-l meshpdb:budget=other", "", "->"},
		{"-l meshpdb:reason=InsufficientPods", "DROPPED", "FORWARDED"},
		{"-l meshpdb:path=intent", "AUDIT", "evicting"},
		{"-l meshpdb:dry-run=true --verdict DROPPED", "dry-run eviction", "[eviction"},
		{"--to-label app=db", "hubble/" + pod, ""},
		{"--protocol http", "http-request", ""},
		{"--protocol udp", "", "->"},
		{"--http-status 429", "DROPPED", "FORWARDED"},
		{"--http-status 2+", "FORWARDED", "DROPPED"},
		{"--http-method POST", "evicting", "deleting deployment"},
		{"--http-method DELETE", "deleting deployment", "evicting"},
		{"--http-path /api/v1/namespaces/hubble/pods/.*/eviction", "evicting", "deleting deployment"},
		{"--http-header X-Remote-User:admin", "by admin", "by system:"},
		{"--http-header X-Remote-User:nobody", "", "->"},
		{"--http-url /api/v1/namespaces/hubble/pods/.*/eviction", "evicting", "deleting deployment"},
		{"--from-workload User/admin", "by admin", "by system:"},
		{"--from-workload ServiceAccount/cluster-autoscaler", "by system:serviceaccount:kube-system:cluster-autoscaler", "by admin"},
		{"--from-namespace kube-system", "by system:", "by admin"},
		{"--from-label k8s:io.cilium.k8s.policy.serviceaccount=cluster-autoscaler", "by system:", "by admin"},
		{"--from-service kube-system/cluster-autoscaler", "by system:", "by admin"},
		{"--from-service /admin", "by admin", "by system:"},
		{"--from-cluster c2", "by system:", "by admin"},
		{"--to-ip " + victim.Status.PodIP, "hubble/" + pod, "in c1"},
		{"--from-ip 0.0.0.0/0", "", "->"},
		{"--to-identity 1", "", "->"},
		{"--uuid " + last.Flow.UUID, "hubble/" + pod, "by system:"},
		{"--uuid 00000000-0000-0000-0000-000000000000", "", "->"},
		{"--not-reply", "hubble/" + pod, ""},
		{"--reply", "", "->"},
		{"--type l7", "http-request", ""},
		{"--type drop", "", "->"},
		{"--cluster c2", "DROPPED", "in c1"},
		{"--to-cluster c1", "in c1", "in c2"},
		{"--node-name c2/", "in c2", "in c1"},
		{"--to-workload Deployment/db", "hubble/", ""},
		{"--drop-reason-desc POLICY_DENIED", "DROPPED", "FORWARDED"},
		{"--traffic-direction ingress", "hubble/" + pod, ""},
		{"--traffic-direction egress", "", "->"},
		{"--node-label app.kubernetes.io/name=meshpdb-controller", "hubble/" + pod, ""},
		{"--cel-expression _flow.emitter.name=='meshpdb'", "hubble/" + pod, ""},
		{"--cel-expression _flow.emitter.name=='hubble'", "", "->"},
		{"--since 1h", "hubble/" + pod, ""},
		{"--until 1h", "", "->"},
		{"--since 1h --until 0s", "hubble/" + pod, ""},
		{"--all", "hubble/" + pod, ""},
		{"--first 100", "hubble/" + pod, ""},
	} {
		args := append(strings.Fields(c.args), "--print-node-name")
		if !slices.ContainsFunc([]string{"--until", "--since", "--all", "--first"}, func(which string) bool { return strings.Contains(c.args, which) }) {
			args = append(args, "--last", "100")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := h.observe(ctx, "", args...).CombinedOutput()
		cancel()
		if err != nil || !strings.Contains(string(out), c.has) || c.hasNot != "" && strings.Contains(string(out), c.hasNot) {
			t.Errorf("hubble observe %s (%v) says\n%s", c.args, err, out)
		}
	}
	out, err := h.observe(t.Context(), "", "--last", "1", "--print-node-name", "--verdict", "DROPPED").CombinedOutput()
	t.Logf("hubble observe --last 1 --verdict DROPPED (%v)\n%s", err, out)
}

// last is the newest decision that filters let through.
func (h *hubbleMesh) last(t *testing.T, filters ...string) line {
	t.Helper()
	out, err := h.observe(t.Context(), "", append(filters, "--last", "1", "-o", "json")...).Output()
	var newest line
	for text := range strings.Lines(string(out)) {
		if err := json.Unmarshal([]byte(text), &newest); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	if err != nil || newest.Flow.UUID == "" {
		t.Fatalf("hubble observe %v (%v) says\n%s", filters, err, out)
	}
	return newest
}

// wantExport reads the files as the audit trail that they are.
func wantExport(t *testing.T, h *hubbleMesh, pod string) {
	var all bytes.Buffer
	for _, path := range h.exports {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	for verdict, words := range map[string]string{"DROPPED": "eviction of hubble/" + pod + " in c2", "FORWARDED": "in c1", "AUDIT": "deleting deployment db"} {
		cmd := exec.CommandContext(t.Context(), h.cli, "observe", "--input-file", "-", "--verdict", verdict)
		cmd.Stdin = bytes.NewReader(all.Bytes())
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), words) || strings.Contains(string(out), "Failed to unmarshal") {
			t.Errorf("hubble observe --input-file --verdict %s (%v) says\n%s", verdict, err, out)
		}
	}
}

// wantHistory: kubectl meshpdb history reads what was refused from Relay, from controllers and from their exports.
func wantHistory(t *testing.T, h *hubbleMesh, pod string) {
	certs := " --hubble-tls-server-name meshpdb.c2.hubble-grpc.cilium.io --hubble-tls-ca-cert-files " + h.certs + "/ca.crt" +
		" --hubble-tls-client-cert-file " + h.certs + "/tls.crt --hubble-tls-client-key-file " + h.certs + "/tls.key"
	found := 0
	for node, address := range h.observers {
		if strings.HasPrefix(node, "c2/") {
			out := wantSays(t, 20*time.Second, 0, "history pod/"+pod+" -n hubble --context c2 --hubble-server "+address+certs)
			found += strings.Count(out, "budget hubble/db needs 6")
		}
	}
	if found == 0 {
		t.Error("no controller of c2 shows a refusal")
	}
	t.Log(wantSays(t, 20*time.Second, 0, "history db -n hubble --context c1 --hubble-server "+h.relay, "DisruptionRefused", "pod/"+pod, "budget hubble/db needs 6", "Now, as context c1 sees it:"))
	found = 0
	for _, path := range h.exports {
		found += strings.Count(wantSays(t, 20*time.Second, 0, "history pod/"+pod+" -n hubble --input-file "+path), "budget hubble/db needs 6")
	}
	if found == 0 {
		t.Error("no export has a refusal")
	}
}

// wantRelayWithoutPeers: Relay goes on without the peer service, is not healthy meanwhile, and is again when it comes back.
func wantRelayWithoutPeers(t *testing.T, h *hubbleMesh, w *scenario.Workload, c *scenario.Cluster, pod string) {
	h.mux.Kill()
	eventually(t, 30*time.Second, "Relay misses its peer service", func() error {
		if err := h.connected(); err == nil {
			return fmt.Errorf("it is healthy")
		}
		return nil
	})
	before := time.Now().UTC().Format(time.RFC3339Nano)
	wantRefusal(t, c.Evict(t.Context(), w.Namespace, pod), 0, "needs 6")
	eventually(t, 20*time.Second, "Relay still shows decisions", func() error {
		out, err := h.observe(t.Context(), "", "--since", before).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "eviction of hubble/"+pod) {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err := h.mux.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "Relay is healthy again", h.connected)
}
