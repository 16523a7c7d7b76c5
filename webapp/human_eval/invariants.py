"""What must hold of every campaign, as queries that find what does not. `manage.py check_campaigns` asks them all."""

from collections.abc import Iterator

from django.db import connection

from webapp.human_eval.leases import ORDER_SQL
from webapp.human_eval.models import Campaign

# ruff: noqa: S608 - made of this module's own words

_COUNTED = "answer.standing = 'counted' AND item.kind = 'main'"
_ANSWERS = "human_eval_answer AS answer JOIN human_eval_item AS item ON item.id = answer.item_id"
_SLOTS = "human_eval_slot AS slot JOIN human_eval_item AS item ON item.id = slot.item_id"

# Sentence with {}: SELECT of keys (items, slots, answers or raters) of campaign %(campaign)s that break it.
RULES = {
    "items {} have more counted answers than replicas": f"""
        SELECT item.id FROM {_ANSWERS} JOIN human_eval_campaign AS campaign ON campaign.id = item.campaign_id
        WHERE item.campaign_id = %(campaign)s AND {_COUNTED}
        GROUP BY item.id, campaign.replicas HAVING count(*) > campaign.replicas""",
    "items {} have answers of one rater twice": f"""
        SELECT item.id FROM {_ANSWERS} WHERE item.campaign_id = %(campaign)s
        GROUP BY item.id HAVING count(*) <> count(DISTINCT answer.rater_id)""",
    "items {} do not have one slot for every replica": """
        SELECT item.id FROM human_eval_item AS item
        JOIN human_eval_campaign AS campaign ON campaign.id = item.campaign_id
        LEFT JOIN human_eval_slot AS slot ON slot.item_id = item.id AND slot.status <> 'void'
        WHERE item.campaign_id = %(campaign)s AND item.kind = 'main' AND campaign.kind = 'campaign'
          AND campaign.status <> 'draft'
        GROUP BY item.id, campaign.replicas HAVING count(slot.id) <> campaign.replicas""",
    "slots {} are submitted, and no answer of their rater, item and order is theirs": f"""
        SELECT slot.id FROM {_SLOTS}
        WHERE slot.campaign_id = %(campaign)s AND slot.status = 'submitted' AND NOT EXISTS (
            SELECT FROM human_eval_answer AS answer
            WHERE answer.slot_id = slot.id AND answer.item_id = slot.item_id AND answer.rater_id = slot.rater_id
              AND answer."order" = slot."order"
              AND (answer.standing = 'counted' OR answer.standing = 'excluded' AND item.kind <> 'main'))""",
    "slots {} hold a counted answer, and are not submitted": """
        SELECT slot.id FROM human_eval_slot AS slot JOIN human_eval_answer AS answer ON answer.slot_id = slot.id
        WHERE slot.campaign_id = %(campaign)s AND answer.standing = 'counted' AND slot.status <> 'submitted'""",
    "slots {} are leased for an item that their rater has answered": """
        SELECT slot.id FROM human_eval_slot AS slot
        JOIN human_eval_answer AS answer ON answer.item_id = slot.item_id AND answer.rater_id = slot.rater_id
        WHERE slot.campaign_id = %(campaign)s AND slot.status = 'leased'""",
    "slots {} have another order than their row of the Latin square": f"""
        SELECT slot.id FROM {_SLOTS}
        WHERE slot.campaign_id = %(campaign)s AND slot."order" <> '' AND slot."order" <> {ORDER_SQL}""",
    "slots or answers of items {} belong to another campaign": """
        SELECT item.id FROM human_eval_item AS item
        WHERE item.campaign_id = %(campaign)s AND (
            EXISTS (SELECT FROM human_eval_slot AS s WHERE s.item_id = item.id AND s.campaign_id <> item.campaign_id)
            OR EXISTS (SELECT FROM human_eval_answer AS a WHERE a.item_id = item.id AND a.campaign_id <> item.campaign_id))""",
    "raters {} hold more than two tasks": """
        SELECT rater_id FROM human_eval_slot WHERE campaign_id = %(campaign)s AND status = 'leased'
        GROUP BY rater_id HAVING count(*) > 2""",
    "raters {} are excluded, and have answers that count or tasks in hand": """
        SELECT exclusion.rater_id FROM human_eval_exclusion AS exclusion
        WHERE exclusion.campaign_id = %(campaign)s AND exclusion.lifted IS NULL AND (
            EXISTS (SELECT FROM human_eval_answer AS a WHERE a.campaign_id = exclusion.campaign_id
                    AND a.rater_id = exclusion.rater_id AND a.standing = 'counted')
            OR EXISTS (SELECT FROM human_eval_slot AS s WHERE s.campaign_id = exclusion.campaign_id
                       AND s.rater_id = exclusion.rater_id AND s.status = 'leased'))""",
    "answers {} are excluded, and their rater is not": """
        SELECT answer.id FROM human_eval_answer AS answer
        WHERE answer.campaign_id = %(campaign)s AND answer.standing = 'excluded' AND NOT EXISTS (
            SELECT FROM human_eval_exclusion AS exclusion WHERE exclusion.campaign_id = answer.campaign_id
              AND exclusion.rater_id = answer.rater_id AND exclusion.lifted IS NULL)""",
    "answers {} are surplus without a reason": """
        SELECT id FROM human_eval_answer
        WHERE campaign_id = %(campaign)s AND standing = 'surplus' AND surplus_reason = ''""",
    "answers {} are not on the campaign's scale, or say more or less than it asks": """
        SELECT answer.id FROM human_eval_answer AS answer
        JOIN human_eval_campaign AS campaign ON campaign.id = answer.campaign_id
        WHERE answer.campaign_id = %(campaign)s AND (
            (answer.quality_2 IS NULL) <> (campaign.way = 2)
            OR least(answer.quality_0, answer.quality_1, answer.quality_2) < campaign.scale_min
            OR greatest(answer.quality_0, answer.quality_1, answer.quality_2) > campaign.scale_max)""",
}
_SHOWN = 5


def broken_rules(campaign: Campaign) -> Iterator[str]:
    """Yield a sentence for every rule that does not hold of a campaign, with the first keys that break it."""
    with connection.cursor() as cursor:
        for sentence, query in RULES.items():
            cursor.execute(query, {"campaign": campaign.pk})
            if keys := sorted({row[0] for row in cursor.fetchall()}):
                more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
                yield sentence.format(", ".join(str(key) for key in keys[:_SHOWN]) + more)
