"""What the shop does later."""

from __future__ import annotations

from django.tasks import task

from examples.django_shop.shop.models import Charge, Order


@task(queue_name="billing", priority=10)
def charge(order_id: int) -> int:
    """Exactly once: the charge and the job's commit record are one transaction."""
    order = Order.objects.get(pk=order_id)
    Charge.objects.create(order=order, cents=order.cents)
    return int(order.cents)
