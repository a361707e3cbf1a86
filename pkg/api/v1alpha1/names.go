package v1alpha1

// Names that users and other programs see. They are part of the API.
const (
	// MaxUnavailableAnnotation on a global Service makes a budget: the short form of spec.maxUnavailable.
	MaxUnavailableAnnotation = "meshpdb.io/max-unavailable"
	// BreakGlassAnnotation on a pod says why it must go although its budget
	// refuses. Only somebody who may do BreakGlassVerb on the budget is let through by it.
	BreakGlassAnnotation = "meshpdb.io/break-glass"
	// BreakGlassVerb is a virtual verb on meshpoddisruptionbudgets.
	BreakGlassVerb = "break-glass"
	// MinAvailableAnnotation on a global Service makes a budget: the short form of spec.minAvailable.
	MinAvailableAnnotation = "meshpdb.io/min-available"
	// NamespaceLabel stands on every namespace that holds a budget; the webhooks select it.
	NamespaceLabel = "meshpdb.io/budgeted"
	// NamespaceLabelValue is the value of NamespaceLabel.
	NamespaceLabelValue = "true"
	// KickedAtAnnotation is put on an owner of covered pods, with the time as RFC 3339, so
	// that its controller tries at once what it has put off for want of budget.
	KickedAtAnnotation = "meshpdb.io/kicked-at"
)

// WaitingReason is why a disruption is to happen.
type WaitingReason string

// Reasons of waiting.
const (
	// WaitingTaintEviction: the pod's node has a NoExecute taint that the pod does not tolerate.
	WaitingTaintEviction WaitingReason = "TaintEviction"
	// WaitingScaleDownOrRollout: the owner has pods that are too many or outdated.
	WaitingScaleDownOrRollout WaitingReason = "ScaleDownOrRollout"
)

// MaxWaiting is how many waiting disruptions a status names.
const MaxWaiting = 10

// Types of conditions.
const (
	// ConditionEnforced: disruptions of the budget's pods in this cluster are admitted by meshpdb.
	ConditionEnforced = "Enforced"
	// ConditionDisruptionAllowed has the meaning and the reasons of policy/v1's condition of that name.
	ConditionDisruptionAllowed = "DisruptionAllowed"
	// ConditionNotShared: Cilium does not export the Service, so the published records count alone.
	ConditionNotShared = "NotShared"
)

// Reasons of conditions.
const (
	ReasonEnforced             = "Enforced"
	ReasonServiceNotFound      = "ServiceNotFound"
	ReasonServiceHasNoSelector = "ServiceHasNoSelector"
	ReasonOwnerUnknown         = "OwnerUnknown"
	ReasonProtectedNamespace   = "ProtectedNamespace"
	ReasonClusterNotInScope    = "ClusterNotInScope"
	ReasonKVStoreUnavailable   = "KVStoreUnavailable"
	ReasonSuspended            = "Suspended"
	ReasonShared               = "Shared"
	ReasonNotExported          = "NotExported"
)
