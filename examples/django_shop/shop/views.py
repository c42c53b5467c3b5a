"""Placing an order, and asking what became of it."""

from __future__ import annotations

import json

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Sum
from django.http import Http404, HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.tasks import default_task_backend
from django.tasks.exceptions import TaskResultDoesNotExist
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from examples.django_shop.shop.models import Order
from examples.django_shop.shop.tasks import charge


@csrf_exempt
@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    try:
        with transaction.atomic():  # the order and its job, or neither
            order = Order(customer=asked["customer"], cents=asked["cents"])
            order.save()
            result = charge.enqueue(order_id=order.pk)
            order.full_clean()
            if order.cents == 0:
                raise ValidationError("an order of nothing")
    except ValidationError as error:
        return JsonResponse({"error": error.messages}, status=422)
    return JsonResponse({"order_id": order.pk, "task_id": result.id}, status=202)


def order(request: HttpRequest, order_id: int) -> JsonResponse:
    found = get_object_or_404(Order, pk=order_id)
    charged = found.charges.aggregate(cents=Sum("cents", default=0))
    return JsonResponse({"cents": found.cents, "charged": charged["cents"]})


def task(request: HttpRequest, task_id: str) -> JsonResponse:
    try:
        result = default_task_backend.get_result(task_id)
    except TaskResultDoesNotExist as error:
        raise Http404 from error
    told = {"status": result.status, "attempts": result.attempts}
    if result.is_finished and not result.errors:
        told["return_value"] = result.return_value
    return JsonResponse(told)
