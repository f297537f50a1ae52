"""Reviews of who may what in an organization. Ours: Neon's API has nothing like it."""

from typing import Final

from cloister.edge.api.call import Call, NoQuery, Plain, Versioned
from cloister.edge.api.endpoint import endpoint
from cloister.edge.api.wire import reviews as wire
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action

_REVIEWS: Final = "/cloister/organizations/{org_id}/access_reviews"
_REVIEW: Final = _REVIEWS + "/{review_id}"
_POLICY: Final = "/cloister/organizations/{org_id}/access_review_policy"


@endpoint("GET", _REVIEWS, permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_LIST)
async def list_access_reviews(call: Plain) -> wire.ReviewList:
    return wire.ReviewList(access_reviews=[wire.view(it) for it in await call.control.reviews.find(call.org_id)])


@endpoint("POST", _REVIEWS, permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_START, status=201)
async def start_access_review(call: Call[wire.StartReview, NoQuery]) -> wire.ReviewAnswer:
    started = await call.control.reviews.start(
        call.caller, call.org_id, answer_days=call.body.answer_days, lapses=call.body.unanswered_rights_lapse
    )
    return wire.answer(started)


@endpoint("GET", _REVIEW, permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_LIST)
async def get_access_review(call: Plain) -> wire.ReviewAnswer:
    return wire.answer(await call.control.reviews.get(call.org_id, call.review_id))


@endpoint("POST", _REVIEW + "/items/{item_number}", permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_DECIDE)
async def answer_access_review_item(call: Call[wire.AnswerItem, NoQuery]) -> wire.ReviewAnswer:
    decided = await call.control.reviews.decide(
        call.caller,
        call.org_id,
        call.review_id,
        call.item_number,
        keeps=call.body.decision == "keep",
        note=call.body.note,
    )
    return wire.answer(decided)


@endpoint("POST", _REVIEW + "/close", permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_CLOSE)
async def close_access_review(call: Plain) -> wire.ReviewAnswer:
    return wire.answer(await call.control.reviews.close(call.caller, call.org_id, call.review_id))


@endpoint("GET", _POLICY, permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_LIST, versioned=True)
async def get_access_review_policy(call: Plain) -> Versioned[wire.ReviewPolicyView]:
    policy = await call.control.reviews.policy(call.org_id)
    return Versioned(wire.policy(policy), policy.version(call.org_id))


@endpoint("PUT", _POLICY, permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_POLICY, versioned=True)
async def set_access_review_policy(call: Call[wire.SetReviewPolicy, NoQuery]) -> Versioned[wire.ReviewPolicyView]:
    body = call.body
    policy = await call.control.reviews.set_policy(
        call.caller,
        call.org_id,
        every_days=body.every_days,
        answer_days=body.answer_days,
        lapses=body.unanswered_rights_lapse,
    )
    return Versioned(wire.policy(policy), policy.version(call.org_id))


@endpoint("DELETE", _POLICY, permission=Permission.MEMBER_MANAGE, audit=Action.REVIEW_POLICY, versioned=True)
async def remove_access_review_policy(call: Plain) -> wire.ReviewPolicyView:
    return wire.policy(await call.control.reviews.remove_policy(call.caller, call.org_id))
